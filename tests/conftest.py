import hypothesis
import torch

hypothesis.settings.register_profile(
    "missviz", deadline=None, max_examples=60, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("missviz")
torch.set_num_threads(min(2, torch.get_num_threads()))
