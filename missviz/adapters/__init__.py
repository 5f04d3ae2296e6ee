"""WHAT AN UPDATE IS: one file per family, each with formula, initialisation and efficient form."""
