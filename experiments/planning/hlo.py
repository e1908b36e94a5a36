"""Collectives and memory traffic of a compiled program, from its HLO text, with loops multiplied out.

XLA's own cost analysis counts the body of a loop once. Here each computation counts as many times as its
callers
run it: the body of a `while` by its trip count (once, with a note, if this is not found), and of the branches
of a conditional the one with the most traffic.
"""

import functools
import math
import re
from collections import Counter
from dataclasses import dataclass, field

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16}
_BITS |= {"f16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|called_computations)=\{?%?([\w.\-]+)")
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\[[\d,]+\]T\([\d,]+\)|[^)]*)\))?\s*\{([^}]*)\}"
)
# These move no data: they name, view or await the result of another instruction.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota", "partition-id",
    "replica-id", "opt-barrier", "optimization-barrier", "add-dependency", "while", "conditional", "call",
    "async-update",
}  # fmt: skip

_SLICES = ("dynamic-slice", "slice", "gather")
_VIEWS = ("bitcast", "get-tuple-element", "copy")


@dataclass(frozen=True)
class Collective:
    """A collective from the point of view of one device.

    kind: one of `KINDS`.
    operand_bytes: size of the device's operand.
    group: positions in the mesh of the devices of one group (all groups are alike).
    """

    kind: str
    operand_bytes: float
    group: tuple[int, ...]

    @property
    def group_size(self) -> int:
        return len(self.group)


@dataclass
class Instruction:
    """One line of a computation."""

    name: str
    shape: str
    op: str
    arguments: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        return _NAME.findall(self.arguments)


@dataclass
class Traffic:
    """Traffic of one run of a program on one device.

    collectives: number of executions of each collective.
    hbm_bytes: bytes read and written in HBM, estimated from shapes, without data inside fusions or in on-chip
      memory.
    unknown_loops: number of loops whose trip count was not found; they count once.
    """

    collectives: Counter[Collective] = field(default_factory=Counter)
    hbm_bytes: float = 0.0
    unknown_loops: int = 0

    def add(self, other: "Traffic", times: int = 1) -> None:
        for collective, count in other.collectives.items():
            self.collectives[collective] += count * times
        self.hbm_bytes += other.hbm_bytes * times
        self.unknown_loops += other.unknown_loops


def _closing(text: str, start: int) -> int:
    """Position after the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place + 1
    return len(text)


def _instruction(line: str) -> Instruction | None:
    name, found, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    if not found or not name.startswith("%"):
        return None
    end = _closing(rest, 0) if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:end], rest[end:].strip()
    op, _, _ = rest.partition("(")
    close = _closing(rest, len(op))
    return Instruction(name[1:], shape, op, rest[len(op) + 1 : close - 1], rest[close:])


class Program:
    """Computations of an HLO text in the format of `as_text()`.

    Raises:
      ValueError: the text has no entry computation.
    """

    def __init__(self, text: str, devices: int = 1):
        self.devices = devices
        self.computations: dict[str, list[Instruction]] = {}
        self.roots: dict[str, str] = {}
        entry = None
        current: list[Instruction] = []
        for line in text.splitlines():
            if line.endswith("{") and "->" in line and not line.startswith(" "):
                name = line.removeprefix("ENTRY ").split()[0].removeprefix("%").partition("(")[0]
                entry = name if line.startswith("ENTRY ") else entry
                current = self.computations[name] = []
            elif line.startswith(" ") and (instruction := _instruction(line)):
                current.append(instruction)
                if line.lstrip().startswith("ROOT "):
                    self.roots[name] = instruction.name
        if entry is None:
            raise ValueError("The text has no entry computation: give the HLO text of a module.")
        self.traffic = functools.cache(self._traffic)
        self.entry = entry

    def total(self) -> Traffic:
        """Traffic of one run of the program on one device."""
        return self.traffic(self.entry)

    def _traffic(self, name: str) -> Traffic:
        total = Traffic()
        shapes = {each.name: each.shape for each in self.computations[name]}
        for collective in self._own_collectives(name).values():
            total.collectives[collective] += 1
        for each in self.computations[name]:
            total.hbm_bytes += self._bytes(each, shapes)
            if each.op == "while":
                trips = self._trip_count(name, each)
                total.unknown_loops += trips is None
                total.add(self.traffic(_called(each, "body")), trips or 1)
                total.add(self.traffic(_called(each, "condition")), trips or 1)
            elif each.op == "conditional":
                total.add(self._heaviest(each))
            elif each.op == "call":
                for called in self._calls(each):
                    total.add(self.traffic(called))
        return total

    def _own_collectives(self, name: str) -> dict[str, Collective]:
        """Collectives of a computation and of its fusions, by channel.

        On TPUs a collective is spread over several fusions, so that it overlaps with other work: one that
        starts it, one that awaits it, and between them any number of "async_collective_fusion"s, also in
        inner loops. Collectives on the SparseCore of tpu7x are in a computation that a custom call names.
        """
        found = {}
        shapes = {each.name: each.shape for each in self.computations[name]}
        for each in self.computations[name]:
            if kind := _kind(each.op):
                channel = re.search(r"channel_id=(\d+)", each.attributes)
                key = f"{kind} {channel.group(1)}" if channel else each.name
                found[key] = self._collective(name, kind, each, shapes)
            elif each.op in ("fusion", "custom-call") or each.op.endswith("-start"):
                for called in self._calls(each):
                    if not called.startswith("async_collective_fusion"):
                        found |= self._own_collectives(called)
        return found

    def _trip_count(self, name: str, loop: Instruction) -> int | None:
        """Trip count of a loop: known to XLA, or the bound with which its condition compares a counter."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known.group(1))
        condition = {each.name: each for each in self.computations[_called(loop, "condition")]}
        bounds = [each for each in condition.values() if each.op == "constant" and each.arguments.isdigit()]
        test = re.search(r"direction=(LT|LE)", " ".join(self._text_of(each) for each in condition.values()))
        if len(bounds) != 1 or test is None:
            return None
        return int(bounds[0].arguments) + (test.group(1) == "LE") - self._start(name, loop, condition)

    def _text_of(self, each: Instruction) -> str:
        inner = " ".join(x.attributes for called in self._calls(each) for x in self.computations[called])
        return each.attributes + inner

    def _start(self, name: str, loop: Instruction, condition: dict[str, Instruction]) -> int:
        """Initial value of a loop's counter: 0 unless it is another constant."""
        around = {each.name: each for each in self.computations[name]}
        indices = [_index(each) for each in condition.values() if each.op == "get-tuple-element"]
        state = around.get(loop.operands[0])
        if len(indices) != 1 or state is None or state.op != "tuple":
            return 0
        start = around.get(state.operands[indices[0]])
        while start is not None and start.op in ("copy", "bitcast"):
            start = around.get(start.operands[0])
        return int(start.arguments) if start and start.op == "constant" and start.arguments.isdigit() else 0

    def _calls(self, each: Instruction) -> list[str]:
        return [name for name in _CALLED.findall(each.attributes) if name in self.computations]

    def _roots_of(self, each: Instruction) -> list[Instruction]:
        """Root instructions of the computations that an instruction calls."""
        return [
            inner
            for called in self._calls(each)
            for inner in self.computations[called]
            if inner.name == self.roots.get(called)
        ]

    def _heaviest(self, each: Instruction) -> Traffic:
        listed = re.search(r"branch_computations=\{([^}]*)\}", each.attributes)
        names = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", each.attributes)
        names += _NAME.findall(listed.group(1)) if listed else []
        return max((self.traffic(name) for name in names), key=lambda t: t.hbm_bytes, default=Traffic())

    def _collective(self, name: str, kind: str, each: Instruction, shapes: dict[str, str]) -> Collective:
        size = sum(_bytes(shapes.get(operand, "")) for operand in each.operands)
        # For TPUs a reduce-scatter is a fusion of an all-reduce and a slice.
        if kind == "all-reduce" and "all-reduce-scatter" in name:
            kind = "reduce-scatter"
        return Collective(kind, size, _group(each.attributes, self.devices))

    def _bytes(self, each: Instruction, shapes: dict[str, str]) -> float:
        """HBM bytes that an instruction reads and writes."""
        if each.op in _FREE or each.op.endswith("-done"):
            return 0.0
        if each.op.endswith("-start"):  # its result names the operands too
            inside = sum(_hbm(shapes.get(operand, "")) for operand in each.operands)
            for slice_ in self._roots_of(each):
                if slice_.op in _SLICES:
                    return (_bytes(slice_.shape) if inside else 0.0) + _hbm(slice_.shape)
            return max(inside, _hbm(each.shape))
        if each.op in _SLICES:
            return 2 * _hbm(each.shape)
        if each.op in ("dynamic-update-slice", "scatter"):
            return 2 * _hbm(shapes.get(each.operands[-1 if each.op == "scatter" else 1], ""))
        called = self._calls(each) if each.op == "fusion" else []
        if called:
            return self._fusion_bytes(each, called[0], shapes)
        return _hbm(each.shape) + sum(_hbm(shapes.get(operand, "")) for operand in each.operands)

    def _fusion_bytes(self, each: Instruction, called: str, shapes: dict[str, str]) -> float:
        """HBM bytes of a fusion; slices that it reads, or writes in place, count instead of whole arrays."""
        body = {inner.name: inner for inner in self.computations[called]}
        total = 0.0
        written_in_place = False
        for index, operand in enumerate(each.operands):
            whole = _hbm(shapes.get(operand, ""))
            views, users = self._views_and_users(body, index)
            if users and all(
                user.op == "dynamic-update-slice" and user.operands[0] in views for user in users
            ):
                written_in_place = True
                updates = [body[user.operands[1]] for user in users if user.operands[1] in body]
                moved = sum(_bytes(update.shape) for update in updates)
                total += 2 * moved if _hbm(each.shape) else 0.0
            else:
                total += self._read(called, index, whole)
        return total + (0.0 if written_in_place else _hbm(each.shape))

    def _read(self, called: str, index: int, whole: float) -> float:
        """Bytes that a fused computation, or a fusion in it, reads of its `index`-th operand."""
        body = {inner.name: inner for inner in self.computations[called]}
        views, users = self._views_and_users(body, index)
        read = 0.0 if users else whole
        for user in users:
            inside = self._calls(user) if user.op == "fusion" else []
            if user.op in _SLICES:
                read += _bytes(user.shape)
            elif inside:
                places = [place for place, operand in enumerate(user.operands) if operand in views]
                read += sum(self._read(inside[0], place, whole) for place in places)
            else:
                return whole
        return min(whole, read)

    def _views_and_users(
        self, body: dict[str, Instruction], index: int
    ) -> tuple[set[str], list[Instruction]]:
        """Names of the `index`-th operand and of its views, and the instructions that use them."""
        views = {
            each.name for each in body.values() if each.op == "parameter" and int(each.arguments) == index
        }
        for inner in body.values():
            if set(inner.operands) & views and self._only_views(inner):
                views.add(inner.name)
        users = [inner for inner in body.values() if set(inner.operands) & views and inner.name not in views]
        return views, users

    def _only_views(self, inner: Instruction) -> bool:
        """Whether a fused instruction only views its operand or, on tpu7x, changes its tiling."""
        if inner.op != "fusion":
            return inner.op in _VIEWS
        called = self._calls(inner)
        return bool(called) and all(
            each.op == "parameter" or each.op in _VIEWS for each in self.computations[called[0]]
        )


def _kind(op: str) -> str | None:
    base = op.removesuffix("-start")
    return base if base in KINDS else {"ragged-all-to-all": "all-to-all"}.get(base)


def _called(each: Instruction, name: str) -> str:
    found = re.search(rf"\b{name}=%?([\w.\-]+)", each.attributes)
    return found.group(1) if found else ""


def _index(each: Instruction) -> int:
    found = re.search(r"index=(\d+)", each.attributes)
    return int(found.group(1)) if found else 0


def _array_bytes(kind: str, sizes: str) -> float:
    bits = _BITS.get(kind, 8 if kind.startswith("f8") else 4 if kind.startswith("f4") else 0)
    return bits / 8 * math.prod(int(size) for size in sizes.split(",") if size)


def _bytes(shape: str) -> float:
    """Bytes of a type, including all parts of a tuple."""
    return sum(_array_bytes(kind, sizes) for kind, sizes, _ in _ARRAY.findall(shape))


def _hbm(shape: str) -> float:
    """Bytes of the parts of a type in HBM, those whose layout names no other memory space."""
    parts = _ARRAY.findall(shape)
    return sum(
        _array_bytes(kind, sizes) for kind, sizes, layout in parts if not re.search(r"S\([1-9]", layout)
    )


def _group(attributes: str, devices: int) -> tuple[int, ...]:
    """Positions of the devices in the first group of `replica_groups`."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    if listed:
        return tuple(int(place) for place in listed.group(1).split(","))
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if iota:
        groups, dims = ([int(n) for n in iota.group(i).split(",")] for i in (1, 2))
        order = [int(n) for n in iota.group(3).split(",")] if iota.group(3) else list(range(len(dims)))
        return tuple(_transposed(dims, order)[: math.prod(groups[1:])])
    if mesh := _MESH.search(attributes):
        return _mesh_group(*mesh.groups())
    if pairs := dict(re.findall(r"\{(\d+),(\d+)\}", attributes.partition("source_target_pairs=")[2])):
        ring = [next(iter(pairs))]
        while (following := pairs.get(ring[-1])) is not None and following not in ring:
            ring.append(following)
        return tuple(int(place) for place in ring)
    return tuple(range(devices))


def _mesh_group(axes: str, order: str | None, chosen: str) -> tuple[int, ...]:
    """First group along axes of a named mesh, or along factors of axes, `'axis':(before)size`."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    names = list(sizes)
    places = [0]
    for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen):
        inner = math.prod(sizes[each] for each in names[names.index(name) + 1 :])
        count = int(part) if part else sizes[name]
        stride = inner * (sizes[name] // (int(before) * count) if part else 1)
        places = [place + step * stride for place in places for step in range(count)]
    if transposed := re.fullmatch(r"\[([\d,]+)\]T\(([\d,]+)\)", order or ""):
        dims, permutation = ([int(n) for n in part.split(",")] for part in transposed.groups())
        numbers = _transposed(dims, permutation)
        places = [numbers[place] for place in places]
    return tuple(places)


def _transposed(dims: list[int], order: list[int]) -> list[int]:
    """Flattened array of the numbers 0, 1, ... in the shape `dims`, transposed to `order`."""
    strides = [math.prod(dims[axis + 1 :]) for axis in range(len(dims))]
    places = [0]
    for axis in order:
        places = [place + step * strides[axis] for place in places for step in range(dims[axis])]
    return places
