"""What the audit checks of a wheel, a module for each thing that is looked at.

A check is a function that takes an `AuditedWheel` and yields pairs of a level and a sentence.
`builder.check.audit` lists them all and runs them.
"""
