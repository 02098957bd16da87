"""Flat rows: all tables of one width and precision, one after the other in one tensor.

A flat knows how rows are stored; the store that owns it knows which rows are asked for and how they
change. Rows are read as fp32. A changed row is written back *stochastically rounded*: up or down
with the probability that keeps the mean, because small updates rounded to the nearest value would
be lost for ever.

Shapes: R rows of all tables, D elements per row, T rows read, U distinct rows written.

Sources: stochastic rounding of embedding rows: Zhang et al., "Training with Low-precision Embedding
Tables", NeurIPS 2018 workshop; Xu et al., "Agile and Accurate CTR Prediction Model Training for
Massive-Scale Online Advertising Systems", SIGMOD 2021. Learned steps: Li et al., "Adaptive
Low-Precision Training for Embeddings in Click-Through Rate Prediction" (ALPT), AAAI 2023,
arXiv:2212.05735, with the step gradient of Esser et al. (LSQ), ICLR 2020.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recemb.physical import BITS, INTEGERS, PhysicalTable

FIRST_STEP = 0.01
"""Of learned steps, as in the paper; at least."""


class Flat(nn.Module, ABC):
    """The rows of some tables of one form.

    Args:
        tables: By name; all of one :attr:`~recemb.physical.PhysicalTable.form`.
    """

    is_trainable = True
    largest = torch.finfo(torch.float32).max
    """The size of the largest number that a row can be given."""
    starts_K: Tensor

    def __init__(self, tables: Mapping[str, PhysicalTable]) -> None:
        super().__init__()
        sizes = [table.num_rows for table in tables.values()]
        starts = [sum(sizes[:k]) for k in range(len(sizes))]
        self.places = {
            name: slice(start, start + size)
            for name, start, size in zip(tables, starts, sizes, strict=True)
        }
        self.number_of = {name: k for k, name in enumerate(tables)}
        self.num_rows = sum(sizes)
        self.dim, self.precision, _ = next(iter(tables.values())).form
        self.register_buffer("starts_K", torch.tensor(starts), persistent=False)

    @abstractmethod
    def select(self, rows_T: Tensor) -> Tensor:
        """Return rows as (T, D) fp32 (codes: uint8)."""

    @abstractmethod
    def write(self, rows_U: Tensor, values_UD: Tensor) -> None:
        """Store fp32 values of distinct rows, rounded stochastically."""

    @abstractmethod
    def assign(self, table: str, values_RD: Tensor) -> None:
        """Store all values of one table, rounded to the nearest."""

    @abstractmethod
    def reset(self, rows_U: Tensor, values_UD: Tensor) -> None:
        """Store fp32 values of distinct rows that begin anew, rounded to the nearest."""

    @abstractmethod
    def entries(self, table: str) -> dict[str, Tensor]:
        """Return views of what is stored of a table; the main tensor has the key ``""``."""

    def values(self, table: str) -> Tensor:
        """Return a table as fp32 (codes: uint8)."""
        place = self.places[table]
        return self.select(torch.arange(place.start, place.stop, device=self.starts_K.device))

    def is_of(self, tables: Sequence[str], rows_T: Tensor) -> Tensor:
        """Return which rows are of these tables: (T,) bool."""
        number_T = torch.searchsorted(self.starts_K, rows_T, right=True) - 1
        numbers = [self.number_of[name] for name in tables]
        return torch.isin(number_T, torch.tensor(numbers, device=rows_T.device))

    def _add(self, name: str, tensor: Tensor) -> None:
        """Register a tensor that moves with the module; the store saves it, by table."""
        self.register_buffer(name, tensor, persistent=False)


class Float32Flat(Flat):
    """Rows as they are."""

    weight_RD: Tensor

    def __init__(self, tables: Mapping[str, PhysicalTable]) -> None:
        super().__init__(tables)
        self._add("weight_RD", torch.empty(self.num_rows, self.dim))

    def select(self, rows_T: Tensor) -> Tensor:
        """Return rows."""
        return self.weight_RD.index_select(0, rows_T)

    def write(self, rows_U: Tensor, values_UD: Tensor) -> None:
        """Store rows."""
        self.weight_RD.index_copy_(0, rows_U, values_UD)

    def reset(self, rows_U: Tensor, values_UD: Tensor) -> None:
        """Store rows."""
        self.write(rows_U, values_UD)

    def assign(self, table: str, values_RD: Tensor) -> None:
        """Store a table."""
        self.weight_RD[self.places[table]] = values_RD

    def entries(self, table: str) -> dict[str, Tensor]:
        """Return a view of the table."""
        return {"": self.weight_RD[self.places[table]]}

    def values(self, table: str) -> Tensor:
        """Return a view of the table."""
        return self.weight_RD[self.places[table]]


class Float16Flat(Flat):
    """Rows as fp16 or bf16."""

    weight_RD: Tensor

    def __init__(self, tables: Mapping[str, PhysicalTable]) -> None:
        super().__init__(tables)
        self.dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        self.largest = torch.finfo(self.dtype).max
        # fp32 has 23 bits of mantissa, fp16 keeps 10 of them and bf16 keeps 7.
        self.lost_bits = 13 if self.precision == "fp16" else 16
        self._add("weight_RD", torch.empty(self.num_rows, self.dim, dtype=self.dtype))

    def select(self, rows_T: Tensor) -> Tensor:
        """Return rows as fp32."""
        return self.weight_RD.index_select(0, rows_T).to(torch.float32)

    def write(self, rows_U: Tensor, values_UD: Tensor) -> None:
        """Store rows: a random number below the last kept bit is added, then cut off."""
        bits_UD = values_UD.contiguous().view(torch.int32)
        noise_UD = torch.randint_like(bits_UD, 1 << self.lost_bits)
        kept_UD = ((bits_UD + noise_UD) >> self.lost_bits) << self.lost_bits
        kept_UD = kept_UD.view(torch.float32)
        if self.dtype == torch.float16:
            # Below 2^-14 fp16 loses more bits: its numbers are the multiples of 2^-24.
            whole_UD = (values_UD * 2.0**24 + noise_UD / 2.0**self.lost_bits).floor()
            kept_UD = torch.where(values_UD.abs() < 2.0**-14, whole_UD * 2.0**-24, kept_UD)
        self.weight_RD.index_copy_(0, rows_U, kept_UD.to(self.dtype))

    def reset(self, rows_U: Tensor, values_UD: Tensor) -> None:
        """Store rows."""
        self.weight_RD.index_copy_(0, rows_U, values_UD.to(self.dtype))

    def assign(self, table: str, values_RD: Tensor) -> None:
        """Store a table."""
        self.weight_RD[self.places[table]] = values_RD.to(self.dtype)

    def entries(self, table: str) -> dict[str, Tensor]:
        """Return a view of the table."""
        return {"": self.weight_RD[self.places[table]]}


class CodesFlat(Flat):
    """Bytes, read as they are; nothing is trained."""

    is_trainable = False
    weight_RD: Tensor

    def __init__(self, tables: Mapping[str, PhysicalTable]) -> None:
        super().__init__(tables)
        self._add("weight_RD", torch.zeros(self.num_rows, self.dim, dtype=torch.uint8))

    def select(self, rows_T: Tensor) -> Tensor:
        """Return bytes."""
        return self.weight_RD.index_select(0, rows_T)

    def write(self, rows_U: Tensor, values_UD: Tensor) -> None:
        """Refuse: codes are assigned, not trained."""
        raise TypeError("codes are not trained")

    def reset(self, rows_U: Tensor, values_UD: Tensor) -> None:
        """Store rows of bytes."""
        self.weight_RD.index_copy_(0, rows_U, values_UD.to(torch.uint8))

    def assign(self, table: str, values_RD: Tensor) -> None:
        """Store a table of bytes."""
        self.weight_RD[self.places[table]] = values_RD.to(torch.uint8)

    def entries(self, table: str) -> dict[str, Tensor]:
        """Return a view of the table."""
        return {"": self.weight_RD[self.places[table]]}


class IntegerFlat(Flat):
    """Rows as integers times a step: value = code * scale (+ bias).

    Codes lie in -limit - 1 .. limit with limit = 2^(bits - 1) - 1; two int4 codes share a byte.
    What a scale belongs to is the subclass's business.
    """

    code_RD: Tensor

    def __init__(self, tables: Mapping[str, PhysicalTable]) -> None:
        super().__init__(tables)
        bits = BITS[self.precision]
        self.limit = 2 ** (bits - 1) - 1
        self.packed = bits == 4
        width = -(-self.dim // 2) if self.packed else self.dim
        dtype = {4: torch.uint8, 8: torch.int8, 16: torch.int16}[bits]
        self._add("code_RD", torch.zeros(self.num_rows, width, dtype=dtype))

    def _codes(self, rows_T: Tensor) -> Tensor:
        """Return codes as fp32."""
        code_TD = self.code_RD.index_select(0, rows_T)
        if self.packed:
            low_TD, high_TD = code_TD & 15, code_TD >> 4
            code_TD = torch.stack([low_TD, high_TD], 2).flatten(1)[:, : self.dim]
            return code_TD.to(torch.float32) - 8
        return code_TD.to(torch.float32)

    def _store(self, rows_U: Tensor, code_UD: Tensor) -> None:
        """Store whole numbers within the limits."""
        if self.packed:
            shifted_UD = (code_UD + 8).to(torch.uint8)
            if self.dim % 2:
                shifted_UD = torch.cat([shifted_UD, shifted_UD.new_zeros(len(rows_U), 1)], 1)
            code_UD = shifted_UD[:, ::2] | (shifted_UD[:, 1::2] << 4)
        self.code_RD.index_copy_(0, rows_U, code_UD.to(self.code_RD.dtype))

    def _round(self, scaled_UD: Tensor, stochastic: bool) -> Tensor:
        whole_UD = scaled_UD.floor() if stochastic else scaled_UD.round()
        if stochastic:
            # Compared and not added: beside 32767, fp32 has no room for a fine noise.
            whole_UD += torch.rand_like(scaled_UD) < scaled_UD - whole_UD
        # Integers know no NaN; a row whose scale is none reads as one.
        return whole_UD.clamp_(-self.limit - 1, self.limit).nan_to_num_(0.0)

    def write(self, rows_U: Tensor, values_UD: Tensor) -> None:
        """Store rows, rounded stochastically."""
        self._write(rows_U, values_UD, stochastic=True)

    def reset(self, rows_U: Tensor, values_UD: Tensor) -> None:
        """Store rows; those that share a step make it grow where they need it."""
        self._write(rows_U, values_UD, stochastic=False)

    def assign(self, table: str, values_RD: Tensor) -> None:
        """Store a table, rounded to the nearest."""
        place = self.places[table]
        rows_R = torch.arange(place.start, place.stop, device=values_RD.device)
        self._fit(table, values_RD)
        self._write(rows_R, values_RD, stochastic=False)

    def _fit(self, table: str, values_RD: Tensor) -> None:
        """Choose what scales a whole table starts from."""

    @abstractmethod
    def _write(self, rows_U: Tensor, values_UD: Tensor, stochastic: bool) -> None:
        """Store rows."""

    def _table_of(self, rows_T: Tensor) -> Tensor:
        """Return the number of the table that each row belongs to."""
        return torch.bucketize(rows_T, self.starts_K, right=True) - 1


class TableStepFlat(IntegerFlat):
    """One scale per table. It doubles, and all codes halve, when a value outgrows the limits."""

    step_K: Tensor

    def __init__(self, tables: Mapping[str, PhysicalTable]) -> None:
        super().__init__(tables)
        self._add("step_K", torch.ones(len(tables)))

    def select(self, rows_T: Tensor) -> Tensor:
        """Return rows as fp32."""
        scale_T = self.step_K.index_select(0, self._table_of(rows_T))
        return self._codes(rows_T) * scale_T.unsqueeze(1)

    def _fit(self, table: str, values_RD: Tensor) -> None:
        largest = values_RD.abs().amax() if values_RD.numel() else values_RD.new_zeros(())
        self.step_K[self.number_of[table]] = (largest / self.limit).clamp(min=1e-12)

    def _write(self, rows_U: Tensor, values_UD: Tensor, stochastic: bool) -> None:
        table_U = self._table_of(rows_U)
        self._grow(table_U, values_UD)
        scaled_UD = values_UD / self.step_K[table_U].unsqueeze(1)
        self._store(rows_U, self._round(scaled_UD, stochastic))

    def _grow(self, table_U: Tensor, values_UD: Tensor) -> None:
        """Double steps until the largest value of each table fits."""
        largest_K = torch.zeros_like(self.step_K).scatter_reduce(
            0, table_U, values_UD.abs().amax(1), "amax"
        )
        # A value that only rounds to the limit still fits; NaN and infinity have no step.
        times_K = (largest_K / (self.step_K * (self.limit + 0.5))).log2().ceil()
        times_K = times_K.clamp(min=0).nan_to_num(0.0, 0.0, 0.0)
        for number in times_K.nonzero().flatten().tolist():
            place = list(self.places.values())[number]
            rows_R = torch.arange(place.start, place.stop, device=table_U.device)
            factor = 2 ** times_K[number]
            self._store(rows_R, self._round(self._codes(rows_R) / factor, stochastic=True))
            self.step_K[number] *= factor

    def entries(self, table: str) -> dict[str, Tensor]:
        """Return views of codes and step."""
        number = self.number_of[table]
        return {"": self.code_RD[self.places[table]], "step": self.step_K[number : number + 1]}


class RowStepFlat(IntegerFlat):
    """A scale and a bias per row, fitted to its smallest and largest element."""

    largest = torch.finfo(torch.float16).max
    scale_R2: Tensor

    def __init__(self, tables: Mapping[str, PhysicalTable]) -> None:
        super().__init__(tables)
        self._add("scale_R2", torch.zeros(self.num_rows, 2, dtype=torch.float16))

    def select(self, rows_T: Tensor) -> Tensor:
        """Return rows as fp32."""
        scale_T2 = self.scale_R2.index_select(0, rows_T).to(torch.float32)
        return self._codes(rows_T) * scale_T2[:, :1] + scale_T2[:, 1:]

    def _write(self, rows_U: Tensor, values_UD: Tensor, stochastic: bool) -> None:
        fitted_U2 = self._fitted(values_UD)
        if stochastic:
            # A row that still fits stays as it is: a new scale would round its elements anew.
            kept_U2 = self.scale_R2[rows_U]
            scaled_UD = _scaled(values_UD, kept_U2)
            low_U1, high_U1 = scaled_UD.amin(1, keepdim=True), scaled_UD.amax(1, keepdim=True)
            # The hundredth is for fp32, in which a code comes back as 126.99999.
            fits_U1 = (low_U1 >= -self.limit - 1.01) & (high_U1 <= self.limit + 0.01)
            # Of a row that has shrunk, all codes would lie in a few.
            fits_U1 &= high_U1 - low_U1 >= self.limit
            fitted_U2 = torch.where(fits_U1, kept_U2, fitted_U2)
        self.scale_R2.index_copy_(0, rows_U, fitted_U2)
        self._store(rows_U, self._round(_scaled(values_UD, fitted_U2), stochastic))

    def _fitted(self, values_UD: Tensor) -> Tensor:
        """Return scale and bias with which the codes of a row fill the limits."""
        low_U1, high_U1 = values_UD.amin(1, keepdim=True), values_UD.amax(1, keepdim=True)
        # Code -limit - 1 stands for the smallest element, limit for the largest.
        share = (self.limit + 1) / (2 * self.limit + 1)
        bias_U1 = torch.lerp(low_U1, high_U1, share).to(torch.float16)
        # fp16 has moved the bias, so the scale must reach the farther end, and not be rounded down:
        # an end that is clipped would shrink with every update.
        reach_U1 = torch.maximum(
            (high_U1 - bias_U1) / self.limit, (bias_U1 - low_U1) / (self.limit + 1)
        )
        scale_U1 = (reach_U1 * (1 + 2.0**-11) + 2.0**-25).to(torch.float16)
        return torch.cat([scale_U1, bias_U1], 1)

    def entries(self, table: str) -> dict[str, Tensor]:
        """Return views of codes and scales."""
        place = self.places[table]
        return {"": self.code_RD[place], "scale": self.scale_R2[place]}


def _scaled(values_UD: Tensor, scale_U2: Tensor) -> Tensor:
    """Return what is to be rounded; a scale of 0 is that of equal elements, which are the bias."""
    scale_U2 = scale_U2.to(torch.float32)
    return (values_UD - scale_U2[:, 1:]) / scale_U2[:, :1].clamp(min=2.0**-24)


class LearnedStepFlat(IntegerFlat):
    """A learned scale per row (ALPT)."""

    step_R1: Tensor

    def __init__(self, tables: Mapping[str, PhysicalTable]) -> None:
        super().__init__(tables)
        self._add("step_R1", torch.full((self.num_rows, 1), FIRST_STEP))

    def select(self, rows_T: Tensor) -> Tensor:
        """Return rows as fp32."""
        return self._codes(rows_T) * self.step_R1.index_select(0, rows_T)

    def _write(self, rows_U: Tensor, values_UD: Tensor, stochastic: bool) -> None:
        self._store(rows_U, self._round(values_UD / self.step_R1[rows_U], stochastic))

    def _fit(self, table: str, values_RD: Tensor) -> None:
        self.step_R1[self.places[table]] = self._first_step(values_RD)

    def _first_step(self, values_UD: Tensor) -> Tensor:
        """Return the published step, or a larger one where values would be cut off."""
        needed_U1: Tensor = values_UD.abs().amax(1, keepdim=True) / self.limit
        return needed_U1.clamp(min=FIRST_STEP)

    def reset(self, rows_U: Tensor, values_UD: Tensor) -> None:
        """Store rows, whose steps begin anew too."""
        self.step_R1.index_copy_(0, rows_U, self._first_step(values_UD))
        super().reset(rows_U, values_UD)

    def write_nearest(self, rows_U: Tensor, values_UD: Tensor) -> None:
        """Store rows, rounded to the nearest: what the steps' gradient is taken at."""
        self._write(rows_U, values_UD, stochastic=False)

    def step_gradient(self, rows_U: Tensor, values_UD: Tensor, grads_UD: Tensor) -> Tensor:
        """Return the gradient of the scales (U, 1), given that of the rounded rows.

        Inside the range a value moves with the scale by round(x) - x, x = value / scale; outside it
        moves with the limit.
        """
        scaled_UD = values_UD / self.step_R1[rows_U]
        slope_UD = torch.where(
            scaled_UD <= -self.limit - 1,
            -self.limit - 1.0,
            torch.where(scaled_UD >= self.limit, float(self.limit), scaled_UD.round() - scaled_UD),
        )
        return (grads_UD * slope_UD).sum(1, keepdim=True)

    def move_steps(self, rows_U: Tensor, change_U1: Tensor) -> None:
        """Add to the scales; they stay above 0."""
        self.step_R1[rows_U] = (self.step_R1[rows_U] + change_U1).clamp(min=1e-8)

    def entries(self, table: str) -> dict[str, Tensor]:
        """Return views of codes and steps."""
        place = self.places[table]
        return {"": self.code_RD[place], "step": self.step_R1[place]}


def make_flat(tables: Mapping[str, PhysicalTable]) -> Flat:
    """Return the flat for tables of one form."""
    table = next(iter(tables.values()))
    if table.precision in INTEGERS:
        integers: dict[str, type[Flat]] = {
            "table": TableStepFlat,
            "row": RowStepFlat,
            "learned": LearnedStepFlat,
        }
        return integers[table.step](tables)
    floats: dict[str, type[Flat]] = {"fp32": Float32Flat, "uint8": CodesFlat}
    return floats.get(table.precision, Float16Flat)(tables)
