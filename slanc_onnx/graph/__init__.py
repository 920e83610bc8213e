"""The file as it is: read, viewed as scopes, edited and written.

Takes a path or a ModelProto, and gives the model without its external weights, its graphs as
scopes of nodes and tensors, and single tensors on demand. A later stage asks for changes by
`Edits`, plain values that are patched into the ModelProto. Writing is atomic, and the data files of
the input stay as they are.
"""

from slanc_onnx.graph.apart import begin_child, can_fork, kilobytes, lower_limit
from slanc_onnx.graph.bodies import Bodies
from slanc_onnx.graph.checked import DOMAINS, MOST_AXES, GraphPath, check_model, node_faults
from slanc_onnx.graph.edits import (
    Edits,
    NewNode,
    NodeAt,
    add_constant,
    apply_edits,
    drop_own_constants,
    graph_at,
    name_nodes,
    node_at,
    stored_tensor,
    unused_name,
)
from slanc_onnx.graph.facts import (
    constant_made,
    dims,
    element_count,
    element_type,
    last_dim,
    told_type,
)
from slanc_onnx.graph.flow import FLOATS, Flow, Tensor, Use, known_op, read_flow, runtime_inputs
from slanc_onnx.graph.folder_draft import FolderDraft, is_of_a_draft
from slanc_onnx.graph.inline import is_inside
from slanc_onnx.graph.inputs import InputSpec, input_specs
from slanc_onnx.graph.load import (
    PACKED,
    Array,
    all_tensors,
    constant_value,
    every_graph,
    every_node,
    external_location,
    external_range,
    float32_bytes,
    load_model,
    names_read,
    read_tensor,
    stored_bytes,
    with_tensor,
)
from slanc_onnx.graph.new_data import ExternalData, NewData, Pending, without_data
from slanc_onnx.graph.reading import Reading, read_through
from slanc_onnx.graph.save import (
    Draft,
    check_data,
    check_output,
    data_behind_links,
    refuse_what_is_no_file,
)
from slanc_onnx.graph.scope import (
    CALLS,
    SEE_THROUGH,
    Dims,
    Scope,
    op_of,
    read_graph,
    reads,
    reads_value,
)
from slanc_onnx.graph.shapes import concrete_shapes
from slanc_onnx.graph.temporary import real_path, same_place, write_atomically

__all__ = [
    "CALLS",
    "DOMAINS",
    "FLOATS",
    "MOST_AXES",
    "PACKED",
    "SEE_THROUGH",
    "Array",
    "Bodies",
    "Dims",
    "Draft",
    "Edits",
    "ExternalData",
    "Flow",
    "FolderDraft",
    "GraphPath",
    "InputSpec",
    "NewData",
    "NewNode",
    "NodeAt",
    "Pending",
    "Reading",
    "Scope",
    "Tensor",
    "Use",
    "add_constant",
    "all_tensors",
    "apply_edits",
    "begin_child",
    "can_fork",
    "check_data",
    "check_model",
    "check_output",
    "concrete_shapes",
    "constant_made",
    "constant_value",
    "data_behind_links",
    "dims",
    "drop_own_constants",
    "element_count",
    "element_type",
    "every_graph",
    "every_node",
    "external_location",
    "external_range",
    "float32_bytes",
    "graph_at",
    "input_specs",
    "is_inside",
    "is_of_a_draft",
    "kilobytes",
    "known_op",
    "last_dim",
    "load_model",
    "lower_limit",
    "name_nodes",
    "names_read",
    "node_at",
    "node_faults",
    "op_of",
    "read_flow",
    "read_graph",
    "read_tensor",
    "read_through",
    "reads",
    "reads_value",
    "real_path",
    "refuse_what_is_no_file",
    "runtime_inputs",
    "same_place",
    "stored_bytes",
    "stored_tensor",
    "told_type",
    "unused_name",
    "with_tensor",
    "without_data",
    "write_atomically",
]
