"""Import of runs that other programs have recorded, as the tables of an export, marked as foreign."""
