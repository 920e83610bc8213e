"""The edits of a fold: all its changes to a model but those of the weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx

from slanc_onnx.apply.div import EXACT, Planner
from slanc_onnx.apply.fold.choose import Exponents
from slanc_onnx.apply.fold.solve import Cut, mismatches
from slanc_onnx.apply.fold.weights import Weights, divided
from slanc_onnx.graph import Edits, GraphPath, NewNode, NodeAt, Tensor, Use
from slanc_onnx.norms import APPLIED_KEY, NORM_KEY, SCALE_KEY, Norm


def plan_fold(
    model: onnx.ModelProto,
    chosen: Exponents,
    weights: Weights,
    known: Collection[str],
    least_epsilon: Mapping[int, float] = EXACT,
) -> Edits:
    """The nodes, epsilons, copies and notes of a fold.

    Args:
        model: The model.
        chosen: The exponents.
        weights: The model's weights.
        known: Names of the norms whose scale was decided, even if it is 1; each gets a note.
        least_epsilon: As for `apply_scales_in`.
    """
    planner = _FoldPlanner(model, chosen, weights, least_epsilon)
    planner.plan(known)
    return planner.edits


class _FoldPlanner(Planner):
    """Collects the edits of a fold."""

    def __init__(
        self,
        model: onnx.ModelProto,
        chosen: Exponents,
        weights: Weights,
        least_epsilon: Mapping[int, float],
    ) -> None:
        super().__init__(model, least_epsilon)
        self._chosen, self._weights = chosen, weights
        self._flow = chosen.parts.flow
        self._applied = chosen.applied
        self._readers = {u: site.norm for site in chosen.parts.sites for u in site.uses}

    def plan(self, known: Collection[str]) -> None:
        """Plan all edits; see `plan_fold`."""
        solved = self._chosen.solved
        for cut, uses in mismatches(self._flow, solved.produced, solved.needed).items():
            self._cut(cut, uses)
        self._constants(solved.copied, copy=True)
        self._constants(solved.cut, copy=False)
        for site in self._chosen.parts.sites:
            norm, exponent = site.norm, self._chosen.norms[site.norm.name]
            if exponent:
                self.epsilon(norm, 2.0**exponent)
            if exponent or norm.name in known:
                self.edits.stamps[NodeAt(norm.path, norm.nodes[-1])] = self._note(norm)

    def _cut(self, cut: Cut, uses: list[Use]) -> None:
        """Plan one node that divides or multiplies a tensor for some of its reads."""
        tensor = cut.tensor
        made = self._chosen.solved.produced.get(tensor, 0)
        if tensor.path == cut.path and made and tensor in self._flow.pinned:
            self._pinned(cut, made, uses)
            return
        power = cut.exponent - (made if tensor.path == cut.path else 0)
        first = min(use.node for use in uses)
        name = self._scaled(tensor, tensor.name, NodeAt(cut.path, first), power, uses)
        for use in uses:
            self.edits.inputs[NodeAt(use.path, use.node), use.position] = name

    def _pinned(self, cut: Cut, made: int, uses: list[Use]) -> None:
        """Plan a cut of a tensor that keeps its name and value: its node gives another name.

        Args:
            cut: The cut.
            made: Exponent of the tensor as its node makes it.
            uses: The reads to cut.
        """
        tensor = cut.tensor
        path, index, position = self._flow.makers[tensor]
        key = (NodeAt(path, index), position)
        if key not in self.edits.outputs:
            inner = self.unused(f"{tensor.name}/slanc")
            self.edits.outputs[key] = inner
            needed = self._chosen.solved.needed
            for use in self._flow.uses.get(tensor, ()):
                if use.path == path and needed.get(use, 0) == made:
                    self.edits.inputs[NodeAt(use.path, use.node), use.position] = inner
            restored = NodeAt(path, index + 1)
            self._scaled(tensor, inner, restored, -made, [], output=tensor.name)
        if cut.exponent == 0:
            return  # those reads keep the name
        name = self._scaled(
            tensor, self.edits.outputs[key], NodeAt(path, index + 1), cut.exponent - made, uses
        )
        for use in uses:
            self.edits.inputs[NodeAt(use.path, use.node), use.position] = name

    def _scaled(
        self,
        tensor: Tensor,
        source: str,
        before: NodeAt,
        power: int,
        uses: list[Use],
        output: str = "",
    ) -> str:
        """Plan a node that divides `source` by 2^power; returns the name of its output.

        It is a Div where norms alone read it, else a Mul of the stream.
        """
        norms = [self._readers[use] for use in uses if use in self._readers]
        if len(norms) < len(uses):
            norms = []
        op, value = ("Div", 2.0**power) if norms else ("Mul", 2.0**-power)
        result = output or self.unused(f"{tensor.name}/slanc")
        constant = self.scalar("scale", value, self._flow.element_type(tensor))
        owner = norms[0].name if norms else tensor.name
        metadata = self._note(norms[0]) if norms else {APPLIED_KEY: "fold"}
        name = self.unused(f"{owner}/slanc_{op}")
        self.edits.nodes.append(NewNode(before, op, (source, constant), result, name, metadata))
        return result

    def _constants(self, uses: dict[Use, int], *, copy: bool) -> None:
        """Plan the reads of constants that are divided for them alone, by a copy or by a node."""
        keys = {u: (self._flow.reads[u], e, () if copy else u.path) for u, e in uses.items()}
        first: dict[tuple[Tensor, int, GraphPath], int] = {}
        for use, key in keys.items():
            first[key] = min(use.node, first.get(key, use.node))
        names: dict[tuple[Tensor, int, GraphPath], str] = {}
        for use, key in keys.items():
            tensor, exponent, path = key
            if copy and key not in names:
                names[key] = self.unused(f"{tensor.name}/slanc_{2.0**exponent:g}")
                values = divided(self._weights.read(tensor), exponent)
                self.edits.constants[names[key]] = values
            if key not in names:
                before = NodeAt(path, first[key])
                names[key] = self._scaled(tensor, tensor.name, before, exponent, [])
            self.edits.inputs[NodeAt(use.path, use.node), use.position] = names[key]

    def _note(self, norm: Norm) -> dict[str, str]:
        """The metadata on a norm's last node, which the next run reads."""
        scale = 2.0 ** self._chosen.norms[norm.name]
        applied = self._applied[norm.name]
        return {SCALE_KEY: repr(scale), NORM_KEY: norm.name, APPLIED_KEY: applied}
