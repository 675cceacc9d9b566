"""What the audit checks. A check takes an `AuditedWheel` and yields pairs of a level and a sentence."""
