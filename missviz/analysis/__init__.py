"""WHAT IT LOOKS LIKE: tensors in, numbers and tidy tables out."""
