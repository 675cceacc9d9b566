"""What several steps use: errors, messages, files, commands, TOML, downloads, archives."""
