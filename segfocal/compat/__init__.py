"""Other libraries' losses under their own names and with their own numbers."""
