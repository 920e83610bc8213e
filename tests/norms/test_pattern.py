"""The matcher's combinators, each on a graph of a few nodes."""

import onnx
import pytest

from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.pattern import Absent, Constant, Match, Op, Pattern, Scalar, Through, Var


def matches(pattern: Pattern, nodes: str) -> list[Match]:
    """The matches of a pattern at the tensor y of a graph made of the given nodes."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[2, 3] x, float[2, 3] z) => (float[2, 3] y)
        <float two = {{2}}, float[1] three = {{3}}, float[3] row = {{2, 2, 2}},
         int64[1] last = {{-1}}>
        {{ {nodes} }}""")
    (scope,) = read_graph(model)
    return list(pattern.of(scope.graph.outputs[0], Match(scope)))


def names(match: Match) -> dict[str, str]:
    """What every variable stands for."""
    return {name: match.places(name)[0].tensor.name for name, _ in match.uses}


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize("operands", ["r, z", "z, r"])
def test_operands_of_add_and_mul_come_in_either_order(op: str, operands: str) -> None:
    pattern = Op(op, Op("Relu", Var("a")), Var("b"))
    (match,) = matches(pattern, f"r = Relu(x) y = {op}({operands})")
    assert names(match) == {"a": "x", "b": "z"}


@pytest.mark.parametrize("op", ["Sub", "Div"])
def test_operands_of_sub_and_div_come_in_one_order(op: str) -> None:
    pattern = Op(op, Op("Relu", Var("a")), Var("b"))
    assert len(matches(pattern, f"r = Relu(x) y = {op}(r, z)")) == 1
    assert matches(pattern, f"r = Relu(x) y = {op}(z, r)") == []


def test_an_ambiguous_pattern_gives_every_match() -> None:
    found = matches(Op("Add", Var("a"), Var("b")), "y = Add(x, z)")
    assert [names(match) for match in found] == [{"a": "x", "b": "z"}, {"b": "x", "a": "z"}]


def test_a_name_that_occurs_twice_stands_for_one_tensor() -> None:
    square = Op("Mul", Var("a"), Var("a"))
    assert matches(square, "y = Mul(x, z)") == []
    (match, *_) = matches(square, "y = Mul(x, x)")
    assert [place.position for place in match.places("a")] == [0, 1]


def test_one_tensor_behind_two_casts_is_one_tensor() -> None:
    nodes = "f = Cast<to = 1>(x) d = Cast<to = 11>(f) g = Cast<to = 1>(d) y = Div(x, g)"
    (match,) = matches(Op("Div", Var("a"), Var("a")), nodes)
    assert [place.tensor.name for place in match.places("a")] == ["x", "g"]


@pytest.mark.parametrize(("divisor", "found"), [("two", 1), ("three", 0), ("z", 0)])
def test_a_tensor_divided_twice_by_one_constant_is_one_tensor(divisor: str, found: int) -> None:
    nodes = f"a = Div(x, two) c = Cast<to = 1>(x) b = Div(c, {divisor}) y = Sub(a, b)"
    assert len(matches(Op("Sub", Var("a"), Var("a")), nodes)) == found


@pytest.mark.parametrize("op", ["Cast<to = 1>", "Identity", "Dropout"])
def test_casts_and_identities_between_two_ops_are_seen_through(op: str) -> None:
    pattern = Op("Neg", Op("Relu", Var("a")))
    (match,) = matches(pattern, f"r = Relu(x) c = {op}(r) d = Identity(c) y = Neg(d)")
    assert [node.op for node in match.nodes] == ["Neg", "Relu"]
    assert matches(pattern, "r = Relu(x) c = Abs(r) y = Neg(c)") == []


def test_alternatives_are_tried_in_order() -> None:
    either = Op("Neg", Op("Relu", Var("inner")) | Var("any") | Op("Abs", Var("inner")))
    assert [names(m) for m in matches(either, "r = Relu(x) y = Neg(r)")] == [
        {"inner": "x"},
        {"any": "r"},
    ]
    assert [names(m) for m in matches(either, "r = Abs(x) y = Neg(r)")] == [
        {"any": "r"},
        {"inner": "x"},
    ]
    whole = Op("Abs", Var("a")) | Op("Neg", Var("a"))
    assert len(matches(whole, "y = Neg(x)")) == 1


@pytest.mark.parametrize(
    ("constant", "value"),
    [
        ("c = Identity(two)", 2.0),
        ("c = Identity(three)", 3.0),
        ("c = Constant<value_float = 2.5>()", 2.5),
        ("c = Constant<value_int = 2>()", 2.0),
        ("c = Constant<value_ints = [4]>()", 4.0),
        ("c = Constant<value = double[1, 1] {5}>()", 5.0),
        ("k = Constant<value_int = 2>() c = Cast<to = 1>(k)", 2.0),
        ("k = Unsqueeze(two, last) c = Cast<to = 1>(k)", 2.0),
        ("c = Identity(row)", None),
        ("c = Identity(z)", None),
        ("c = Add(two, three)", None),
        ("c = Constant<value_floats = [1.0, 2.0]>()", None),
        ('c = Constant<value_string = "2">()', None),
    ],
)
def test_a_scalar_is_a_constant_with_one_element(constant: str, value: float | None) -> None:
    found = matches(Op("Pow", Var("a"), Scalar("b")), f"{constant} y = Pow(x, c)")
    assert [match.value("b") for match in found] == ([] if value is None else [value])


@pytest.mark.parametrize(
    ("value", "found"), [(2.0, 1), (2.001, 1), (1.999, 1), (2.01, 0), (-2.0, 0), (3.0, 0)]
)
def test_a_scalar_of_a_given_value_fits_within_the_precision_of_fp16(
    value: float, found: int
) -> None:
    assert len(matches(Op("Pow", Var("a"), Scalar(value=value)), "y = Pow(x, two)")) == found


def test_scalars_of_one_name_may_differ() -> None:
    pattern = Op("Add", Op("Mul", Var("a"), Scalar("k")), Scalar("k"))
    (match,) = matches(pattern, "m = Mul(x, two) y = Add(m, three)")
    assert (match.values("k"), match.value("k"), match.value("none")) == ([2.0, 3.0], 2.0, None)


def test_changes_of_shape_are_passed_where_the_pattern_says_so() -> None:
    nodes = "r = Relu(x) u = Unsqueeze(r, last) s = Squeeze(u, last) y = Neg(s)"
    (match,) = matches(Op("Neg", Through(Op("Relu", Var("a")))), nodes)
    assert [node.op for node in match.nodes] == ["Neg", "Squeeze", "Unsqueeze", "Relu"]
    assert matches(Op("Neg", Op("Relu", Var("a"))), nodes) == []
    nodes = "r = Relu(x) t = Transpose(r) y = Neg(t)"
    assert matches(Op("Neg", Through(Op("Relu", Var("a")))), nodes) == []


@pytest.mark.parametrize(
    ("nodes", "found"),
    [("y = Clip(x, two)", 1), ("y = Clip(x, two, two)", 0), ('y = Clip(x, two, "")', 1)],
)
def test_an_absent_input_is_one_that_is_missing_or_empty(nodes: str, found: int) -> None:
    pattern = Op("Clip", Var("a"), Scalar("b"), Absent())
    assert len(matches(pattern, nodes.replace(', "")', ", )"))) == found


def test_an_op_with_fewer_inputs_than_the_pattern_does_not_fit() -> None:
    assert matches(Op("Clip", Var("a"), Var("b"), Var("c")), "y = Clip(x, two)") == []
    assert len(matches(Op("Clip", Var("a")), "y = Clip(x, two)")) == 1


def test_a_check_can_refuse_a_node() -> None:
    pattern = Op("Softmax", Var("a"), check=lambda _, node: node.attrs.get("axis") == 1)
    assert len(matches(pattern, "y = Softmax<axis = 1>(x)")) == 1
    assert matches(pattern, "y = Softmax<axis = 0>(x)") == []


@pytest.mark.parametrize(("operand", "found"), [("row", 1), ("two", 1), ("z", 0)])
def test_a_constant_may_have_any_size(operand: str, found: int) -> None:
    nodes = f"c = Cast<to = 1>({operand}) y = Sub(x, c)"
    assert len(matches(Op("Sub", Var("a"), Constant("b")), nodes)) == found
