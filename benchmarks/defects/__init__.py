"""The rows of `benchmarks/monai_defects.py`, each measured on MONAI and on segfocal."""
