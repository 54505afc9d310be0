"""One constraint object for the several projections of an attention layer.

Keras's attention layers make their projections when they are built, give all of them the one constraint that they
have, and save only that one. For each projection to have pruning of its own that survives saving, this one object
knows the constraints of all.
"""

import keras
import tensorflow as tf

# Layer -> names of the constraint and the regularizer that its projections get.
_ATTENTION = {
    keras.layers.MultiHeadAttention: ("_kernel_constraint", "_kernel_regularizer"),
    keras.layers.GroupQueryAttention: ("kernel_constraint", "kernel_regularizer"),
}


@keras.saving.register_keras_serializable("tf_blocksparse")
class SublayerConstraints(
    keras.constraints.Constraint,
    keras.Operation,  # so that Keras saves the state of its members
    tf.__internal__.tracking.AutoTrackable,  # and tf.train.Checkpoint does
):
    """Hands each weight to the constraint of the sublayer that it belongs to.

    Args:
        members: dict from the name of a sublayer to its constraint.
        default: constraint of the sublayers that `members` does not name, or None.
    """

    def __init__(self, members=None, default=None):
        keras.Operation.__init__(self)
        self.members = dict(members or {})
        self.default = default

    def of_sublayer(self, sublayer):
        """The constraint of a sublayer, or None."""
        return self.members.get(sublayer.name, self.default)

    def of_variable(self, w):
        """The constraint of a variable whose path is `.../sublayer/kernel`, or None."""
        return self.members.get(w.path.split("/")[-2], self.default)

    def __call__(self, w):
        constraint = self.of_variable(w)
        return w if constraint is None else constraint(w)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {"members": {k: serialize(v) for k, v in self.members.items()}, "default": serialize(self.default)}

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        return cls({k: deserialize(v) for k, v in config["members"].items()}, deserialize(config["default"]))


def is_attention(layer):
    """Whether a layer makes projections that share a constraint."""
    return isinstance(layer, tuple(_ATTENTION))


def set_constraint(attention, projection, constraint):
    """Gives one projection of a built attention layer a constraint of its own."""
    shared = getattr(attention, _attributes(attention)[0])
    if not isinstance(shared, SublayerConstraints):
        shared = SublayerConstraints(default=shared)
    shared.members[projection.name] = constraint
    _set_shared(attention, shared)


def set_regularizer(attention, regularizer):
    """Sets the regularizer that the projections of an attention layer get when it is loaded."""
    setattr(attention, _attributes(attention)[1], regularizer)


def forget_constraints(attention):
    """Gives all projections back the constraint that they shared before `set_constraint()`."""
    constraint_name, regularizer_name = _attributes(attention)
    shared = getattr(attention, constraint_name)
    if isinstance(shared, SublayerConstraints):
        _set_shared(attention, shared.default)
        regularizer = getattr(attention, regularizer_name)
        setattr(attention, regularizer_name, getattr(regularizer, "inner", regularizer))


def _set_shared(attention, constraint):
    setattr(attention, _attributes(attention)[0], constraint)
    for projection in vars(attention).values():
        if isinstance(projection, keras.layers.EinsumDense):
            projection.kernel_constraint = constraint
            projection.kernel.constraint = constraint


def _attributes(attention):
    return next(names for cls, names in _ATTENTION.items() if isinstance(attention, cls))
