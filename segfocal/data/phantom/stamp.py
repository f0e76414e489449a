"""The words that stand on every file, figure and table made from the phantom."""

STAMP = "SYNTHETIC PHANTOM - not clinical evidence"
