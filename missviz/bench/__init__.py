"""MEASURED SIDE BY SIDE: our code and a peer's take turns in one process."""
