"""A layer becomes another one, in place.

Keras has no way to exchange a layer of a model. A copy of the model, as `convert()` makes, would leave behind whatever
holds the model or its layers: callbacks, the user's variables, the graph of a Functional model, wrappers. So the
layer object stays and takes on the class and the attributes of its twin.
"""

# What ties a layer to the graph and the names around it, and not to what it computes.
_TIES = ("_inbound_nodes", "_outbound_nodes", "_parent_path", "_path", "_called", "name")


def become(layer, twin):
    """Turns `layer` into `twin`, both built; `twin` is not to be used any more.

    Keras binds methods such as `build()` to the object they were made for, so both objects share their attributes
    from now on.
    """
    ties = {name: vars(layer)[name] for name in _TIES if name in vars(layer)}
    # Not by setattr: Keras would take these for attributes to track.
    object.__setattr__(layer, "__class__", type(twin))
    object.__setattr__(layer, "__dict__", vars(twin))
    vars(layer).update(ties)
