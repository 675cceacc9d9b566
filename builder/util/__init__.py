"""What every step uses: errors, messages, digests, downloads, archives."""
