"""The chaos command, `python -m tests.chaos`: the real stack under load and faults, and then three books compared.

What was committed (SQL), what the job records and the mail ledger say, and what the SMTP server received.
"""
