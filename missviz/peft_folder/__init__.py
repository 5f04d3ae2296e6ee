"""Adapters saved by Hugging Face PEFT: `read_peft` and `write_peft`.

A folder is `adapter_config.json`, which names the method, and `adapter_model.safetensors` with one
group of tensors per layer. What PEFT keeps, and the ΔW (d × k) that it stands for:

    LORA      lora_A (r × k), lora_B (d × r)          ΔW = s B A, s = α/r, or α/√r with use_rslora
      DoRA    and lora_magnitude_vector m (d)         ΔW = diag(m / ‖V‖) V − W₀, V = W₀ + s B A
      PiSSA, OLoRA as trained: A and B start at a part of W₀     ΔW = s (B A − B₀ A₀)
    ADALORA   lora_A, lora_B, lora_E (r × 1)          ΔW = α/(r₀ + 1e-5) B (E ∘ A), r₀ = init_r
    LOHA      hada_w1_a, w1_b, w2_a, w2_b             ΔW = s (w1a w1b) ∘ (w2a w2b)
    VERA      vera_lambda_b (d), vera_lambda_d (r)    ΔW = diag(b) B diag(d) A; one A, B for all
    MISS      miss_block (r × d)                      ΔW[i, j] = block[j mod r, i]
      mini    miss_block (r × m)                      ΔW[i, j] = block[j mod r, i mod m]
      Bat     miss_block (d/r × r × r)                ΔW_oi = W_oi D_o + D_o
    BONE      bone_block, r × d or d/r × r × r        MiSS or Bat: the shape says which

MiSS, Bat and VeRA keep too little to know in_features (mini: nor out_features); for them, and where
W₀ is in the formula, ΔW needs `base`.
"""

from missviz.peft_folder.reading import PeftAdapter, read_peft
from missviz.peft_folder.updates import PeftUpdate
from missviz.peft_folder.writing import write_peft

__all__ = ["PeftAdapter", "PeftUpdate", "read_peft", "write_peft"]
