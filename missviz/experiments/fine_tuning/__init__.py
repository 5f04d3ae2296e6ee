"""Fine-tuning of any frozen network, many members at once: `fine_tune`.

experiment   settings, plan, collect
classifier   the network, its features, and the head on them
batches      which examples a step sees
frozen       what no member changes, computed once for all examples
training     a chunk of members, trained as one
memory       whether that fits
"""
