"""One layer of a PEFT folder as an `Update`: a class for each of PEFT's formulas."""

import functools
import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from missviz.adapters.base import Adapter
from missviz.adapters.bat import Bat
from missviz.adapters.linear import linear_with
from missviz.adapters.loha import hadamard_factors
from missviz.adapters.miss import MiSS
from missviz.adapters.olora import OLoRA
from missviz.adapters.pissa import PiSSA
from missviz.adapters.shards import copies_of
from missviz.adapters.update import Update
from missviz.peft_folder.config import BASE, CONFIG, Config
from missviz.peft_folder.untrusted import TensorFile, Weights, promoted, shown


@dataclass
class Folder:
    """What the layers of a folder have in common."""

    config: Config
    file: TensorFile
    base: Weights | None
    modules: list[str] = field(default_factory=list)

    @functools.cached_property
    def pool(self) -> tuple[Tensor, Tensor]:
        """VeRA's A (r × k_max) and B (d_max × r); drawn as PEFT draws them where not kept."""
        if self.keeps_pool:
            return self.file.read(f"{BASE}vera_A"), self.file.read(f"{BASE}vera_B")
        assert self.base is not None
        rank = self.config.whole("r", 256)
        shapes = [self.base.shape(module) for module in self.modules]
        out_features, in_features = (max(sizes) for sizes in zip(*shapes, strict=True))
        generator = torch.Generator().manual_seed(self.config.seed("projection_prng_key"))
        drawn = []
        for shape in ((rank, in_features), (out_features, rank)):
            bound = math.sqrt(6 / shape[1])
            drawn.append(torch.empty(shape).uniform_(-bound, bound, generator=generator))
        return drawn[0], drawn[1]

    @property
    def keeps_pool(self) -> bool:
        return f"{BASE}vera_A" in self.file.shapes


class PeftUpdate(Update):
    """ΔW of one layer as a PEFT folder keeps it. Tensors are read when asked for, and not kept.

    Attributes:
        module: the layer's name.
        method: "LoRA", "rsLoRA", "DoRA", "PiSSA", "OLoRA", "MiSS", "MiSS mini", "Bat", "Bone",
            "AdaLoRA", "VeRA", "LoHa".
        shape: (out, in); None in place of what only the base knows.
        rank: r as the tensors have it; None for Bat, whose r is a block size.
        scaling: s in front of the product; 1 where the method has none.
        num_parameters: trained numbers in the folder.
    """

    suffixes: ClassVar[tuple[str, ...]]
    """How the names of a layer's tensors end."""
    alpha_key: ClassVar[str | None] = None
    """What adapter_config.json calls α; None where the method has none."""

    def __init__(self, folder: Folder, module: str, method: str, names: dict[str, str]) -> None:
        self.module, self.method = module, method
        self._folder, self._names = folder, names
        shapes = {suffix: folder.file.check(name) for suffix, name in names.items()}
        self.num_parameters = sum(math.prod(shape) for shape in shapes.values())
        self.scaling = 1.0
        self.rank: int | None = None
        self.shape: tuple[int | None, int | None] = (None, None)
        self._understand(shapes)
        if folder.base is not None:
            self._compare(folder.base.shape(module))

    def _understand(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Rank, shape and scaling from the shapes; ValueError where they do not go together."""
        raise NotImplementedError

    def _compare(self, base: tuple[int, int]) -> None:
        for own, other in zip(self.shape, base, strict=True):
            if own not in (None, other):
                raise ValueError(
                    f"base: the layer is {base}, the adapter's tensors are for {self.shape}"
                )
        self.shape = base

    def _matrix(self, suffix: str, shape: tuple[int, ...], least: int = 1) -> tuple[int, int]:
        if len(shape) != 2 or min(shape) < least:
            raise ValueError(
                f"{suffix} has shape {shown(shape)}; a linear layer's is a matrix, not empty"
            )
        return shape[0], shape[1]

    def _agree(self, what: str, one: object, other: object) -> None:
        if one != other:
            raise ValueError(f"{what}: {shown(one)} and {shown(other)}; they must be equal")

    def _read(self, *suffixes: str) -> list[Tensor]:
        return promoted(*(self._folder.file.read(self._names[suffix]) for suffix in suffixes))

    @property
    def base_weight(self) -> Tensor | None:
        """W₀ (out, in), read when asked for; None where `base` was not given."""
        base = self._folder.base
        return None if base is None else base.weight(self.module)

    def _weights(self) -> Weights:
        if self._folder.base is None:
            raise ValueError(
                f"{shown(self.module)}: ΔW of {self.method} needs the layer it stands on; "
                "missviz.read_peft(folder, base=model or path of its safetensors)"
            )
        return self._folder.base

    def _known_shape(self) -> tuple[int, int]:
        if None in self.shape:
            self._weights()
        return self.shape  # type: ignore[return-value]

    def delta(self) -> Float[Tensor, "out in_"]:
        thin = self.factors()
        assert thin is not None, "a method without factors has its own delta"
        return thin[0] @ thin[1]

    def __repr__(self) -> str:
        return f"PeftUpdate({self.method}, shape={self.shape}, rank={self.rank})"


class LoRAUpdate(PeftUpdate):
    """ΔW = s B A."""

    suffixes: ClassVar[tuple[str, ...]] = ("lora_A.weight", "lora_B.weight")
    alpha_key = "lora_alpha"

    def _understand(self, shapes: dict[str, tuple[int, ...]]) -> None:
        config = self._folder.config
        a, b = self.suffixes[:2]
        rank, in_features = self._matrix(a, shapes[a])
        out_features, of_b = self._matrix(b, shapes[b])
        self._agree(f"the ranks of {a} and {b}", rank, of_b)
        self._agree(f"the rank of the tensors and in {CONFIG}", rank, config.rank_of(self.module))
        self.rank, self.shape = rank, (out_features, in_features)
        alpha = config.alpha_of(self.module, self.alpha_key)
        self.scaling = alpha / (math.sqrt(rank) if config.flag("use_rslora") else rank)

    def factors(self) -> tuple[Float[Tensor, "out r"], Float[Tensor, "r in_"]]:
        A, B = self._read(*self.suffixes[:2])
        return self.scaling * B, A


class StartedUpdate(LoRAUpdate):
    """ΔW = s (B A − B₀ A₀), B₀ A₀ from the base's W₀."""

    def factors(self) -> tuple[Float[Tensor, "out r2"], Float[Tensor, "r2 in_"]]:
        assert self.rank is not None
        methods = {"PiSSA": PiSSA, "OLoRA": OLoRA}
        if self.method not in methods:
            raise ValueError(
                f"{shown(self.module)}: ΔW of {self.method} is known only from a converted "
                "folder (PEFT: path_initial_model_for_weight_conversion)"
            )
        weight = promoted(self._weights().weight(self.module))[0]
        start = methods[self.method](self.rank, self.scaling * self.rank).on(linear_with(weight))
        A, B, A0, B0 = promoted(*self._read(*self.suffixes), start.A0, start.B0)
        return self.scaling * torch.cat([B, -B0], dim=1), torch.cat([A, A0], dim=0)


class DoRAUpdate(LoRAUpdate):
    """ΔW = diag(m / ‖V‖) V − W₀ with V = W₀ + s B A and its row norms."""

    suffixes = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")

    def _understand(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super()._understand(shapes)
        self._agree("the magnitudes' shape and (out,)", shapes[self.suffixes[2]], self.shape[:1])

    def factors(self) -> None:  # type: ignore[override]
        return None

    def delta(self) -> Float[Tensor, "out in_"]:
        W0 = self._weights().weight(self.module)
        A, B, m, W0 = promoted(*self._read(*self.suffixes), W0)
        V = W0 + self.scaling * B @ A
        return (m / torch.linalg.vector_norm(V, dim=1)).unsqueeze(1) * V - W0


class AdaLoRAUpdate(PeftUpdate):
    """ΔW = α/(r₀ + 1e-5) B (E ∘ A). r₀ stays init_r where PEFT has cut the rank since.

    In a live PEFT model r₀ is a parameter that an optimiser may move (0.21.2); no folder keeps it,
    so what PEFT loads, and what is read here, has init_r again.
    """

    suffixes = ("lora_A", "lora_B", "lora_E")
    alpha_key = "lora_alpha"

    def _understand(self, shapes: dict[str, tuple[int, ...]]) -> None:
        config = self._folder.config
        # A layer may have been pruned to rank 0.
        rank, in_features = self._matrix("lora_A", shapes["lora_A"], least=0)
        out_features, of_b = self._matrix("lora_B", shapes["lora_B"], least=0)
        if not in_features or not out_features:
            raise ValueError(f"lora_A and lora_B are for a layer of {(out_features, in_features)}")
        self._agree("the ranks of lora_A and lora_B", rank, of_b)
        self._agree("lora_E's shape and (r, 1)", shapes["lora_E"], (rank, 1))
        started = config.whole("init_r", 12)
        if rank > started:
            raise ValueError(f"lora_A has rank {rank}, above init_r={started}")
        self.rank, self.shape = rank, (out_features, in_features)
        alpha = config.number(self.alpha_key, 8)
        self.scaling = (alpha if alpha > 0 else started) / (started + 1e-5)

    def factors(self) -> tuple[Float[Tensor, "out r"], Float[Tensor, "r in_"]]:
        A, B, E = self._read(*self.suffixes)
        return self.scaling * B, E * A


class LoHaUpdate(PeftUpdate):
    """ΔW = s (w1a w1b) ∘ (w2a w2b), a product entry by entry."""

    suffixes = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    alpha_key = "alpha"

    def _understand(self, shapes: dict[str, tuple[int, ...]]) -> None:
        config = self._folder.config
        w1a, w1b, w2a, w2b = (self._matrix(name, shapes[name]) for name in self.suffixes)
        self._agree("the shapes of hada_w1_a and hada_w2_a", w1a, w2a)
        self._agree("the shapes of hada_w1_b and hada_w2_b", w1b, w2b)
        self._agree("the ranks of hada_w1_a and hada_w1_b", w1a[1], w1b[0])
        rank = w1b[0]
        self._agree(f"the rank of the tensors and in {CONFIG}", rank, config.rank_of(self.module))
        self.rank, self.shape = rank, (w1a[0], w1b[1])
        self.scaling = config.alpha_of(self.module, self.alpha_key) / rank

    def factors(self) -> tuple[Float[Tensor, "out r2"], Float[Tensor, "r2 in_"]] | None:
        thin = hadamard_factors(*self._read(*self.suffixes))
        return None if thin is None else (self.scaling * thin[0], thin[1])

    def delta(self) -> Float[Tensor, "out in_"]:
        w1a, w1b, w2a, w2b = self._read(*self.suffixes)
        return self.scaling * (w1a @ w1b) * (w2a @ w2b)


class VeRAUpdate(PeftUpdate):
    """ΔW = diag(b) B diag(d) A. A and B are cut to size from one pool, kept or drawn anew."""

    suffixes = ("vera_lambda_b", "vera_lambda_d")

    def _understand(self, shapes: dict[str, tuple[int, ...]]) -> None:
        folder = self._folder
        b, d = (shapes[name] for name in self.suffixes)
        rank = folder.config.whole("r", 256)
        self._agree(f"vera_lambda_d's shape and (r,) in {CONFIG}", d, (rank,))
        if len(b) != 1 or not b[0]:
            raise ValueError(f"vera_lambda_b has shape {shown(b)}; it must be (out,)")
        self.rank, self.shape = rank, (b[0], None)
        if not folder.keeps_pool:
            folder.config.seed("projection_prng_key")
            # The pool is then made here, so its size is ours to bound.
            if rank > 2**14:
                raise ValueError(f"{CONFIG}: r={rank} is too large to draw vera_A and vera_B anew")
            return
        A, B = (self._matrix(name, folder.file.check(BASE + name)) for name in ("vera_A", "vera_B"))
        self._agree("the ranks of vera_A and vera_lambda_d", A[0], rank)
        self._agree("the ranks of vera_B and vera_lambda_d", B[1], rank)
        if B[0] < b[0]:
            raise ValueError(f"vera_B has {B[0]} rows, vera_lambda_b {b[0]}")

    def _compare(self, base: tuple[int, int]) -> None:
        super()._compare(base)
        if self._folder.keeps_pool:
            widest = self._folder.file.check(f"{BASE}vera_A")[1]
            if widest < base[1]:
                raise ValueError(f"base: the layer is {base}, vera_A has {widest} columns")

    def factors(self) -> tuple[Float[Tensor, "out r"], Float[Tensor, "r in_"]]:
        out_features, in_features = self._known_shape()
        b, d, A, B = promoted(*self._read(*self.suffixes), *self._folder.pool)
        return b.unsqueeze(1) * B[:out_features], d.unsqueeze(1) * A[:, :in_features]


class _Shared(PeftUpdate):
    """What MiSS and Bat have in common: one block, and our own adapter for the formula."""

    suffixes = ("miss_block",)

    @property
    def _block(self) -> str:
        return self.suffixes[0]

    def _adapter(self) -> Adapter:
        raise NotImplementedError

    def _compare(self, base: tuple[int, int]) -> None:
        super()._compare(base)
        try:
            self._method().check_shape(*base)
        except ValueError as error:
            raise ValueError(f"base of {base}: {error}") from None

    def _method(self) -> MiSS | Bat:
        raise NotImplementedError

    def delta(self) -> Float[Tensor, "out in_"]:
        return self._adapter().delta().detach()


class MiSSUpdate(_Shared):
    """ΔW[i, j] = D[i, j mod r] with D = blockᵀ; mini: D[i mod m, j mod r]."""

    def _understand(self, shapes: dict[str, tuple[int, ...]]) -> None:
        config = self._folder.config
        rank, columns = self._matrix(self._block, shapes[self._block])
        self._agree(f"the rank of {self._block} and in {CONFIG}", rank, config.whole("r", 64))
        self.rank = rank
        self.mini = None
        if self.method == "MiSS mini":
            self.mini = columns
            self._agree(
                f"the rows of {self._block} and mini_r in {CONFIG}",
                columns,
                config.whole("mini_r", 1),
            )
        else:
            self.shape = (columns, None)

    def _method(self) -> MiSS:
        assert self.rank is not None
        return MiSS(self.rank, mini=self.mini)

    def _adapter(self) -> Adapter:
        (block,) = self._read(self._block)
        # W₀ is not in the formula, so one zero stands for all of it.
        nothing = block.new_zeros(1).expand(self._known_shape())
        adapter = self._method().on(linear_with(nothing))
        adapter.D.data = block.mT
        return adapter

    def factors(self) -> tuple[Float[Tensor, "out r"], Float[Tensor, "r in_"]]:
        (block,) = self._read(self._block)
        return copies_of(block.mT, *self._known_shape(), "tiled")


class BatUpdate(_Shared):
    """ΔW_oi = W_oi D_o + D_o."""

    def _understand(self, shapes: dict[str, tuple[int, ...]]) -> None:
        shape = shapes[self._block]
        size = self._folder.config.whole("r", 64)
        if len(shape) != 3 or shape[0] < 1 or shape[1:] != (size, size):
            raise ValueError(
                f"{self._block} has shape {shown(shape)}; Bat with r={size} has "
                f"(out/{size}, {size}, {size})"
            )
        self.block_size, self.shape = size, (shape[0] * size, None)

    def _method(self) -> Bat:
        return Bat(self.block_size)

    def _adapter(self) -> Adapter:
        (block,) = self._read(self._block)
        block, weight = promoted(block, self._weights().weight(self.module))
        adapter = self._method().on(linear_with(weight))
        adapter.D.data = block
        return adapter


class BoneMiSSUpdate(MiSSUpdate):
    suffixes = ("bone_block",)


class BoneBatUpdate(BatUpdate):
    suffixes = ("bone_block",)
