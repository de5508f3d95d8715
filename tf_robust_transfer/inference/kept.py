"""What is compiled for a model, kept with the model for the next call."""

import keras
import tensorflow as tf

from tf_robust_transfer.models.graphs import plain_values

# Attribute of the model. Keras is passed by: what it finds among a model's attributes it tracks.
_ATTRIBUTE = "_kept_by_tf_robust_transfer"
# The oldest beyond so many are given up, as where a step size changes from call to call.
MOST = 32


def kept(model, key, make):
    """make(), once for each model and key.

    It lives as long as the model. Weights may change; of a model whose layers were changed (another
    activation of the last one, say, `layer.scale = 2`, or a Normalization that was adapted anew)
    everything is made anew.

    Args:
        model: keras.Model.
        key: hashable.
        make: called without arguments.
    """
    form = _form(model)
    held = model.__dict__.get(_ATTRIBUTE)
    if held is None or held[0] != form:
        held = model.__dict__[_ATTRIBUTE] = form, {}
    made = held[1]
    made[key] = made.pop(key) if key in made else make()  # to the end: the first is the oldest
    while len(made) > MOST:
        made.pop(next(iter(made)))
    return made[key]


def compiled(function, *like):
    """The function of tensors, traced once, for any number of rows.

    TensorFlow warns of functions of one source that are traced for many models; not of these.

    Args:
        function: of tensors or nests of them, the first dimension of which is the rows'.
        like: its arguments, or such as have their shapes and types.
    """
    specs = tf.nest.map_structure(
        lambda part: tf.TensorSpec([None, *part.shape[1:]][: part.shape.rank], part.dtype), like
    )
    return tf.function(function, autograph=False).get_concrete_function(*specs)


def _form(model):
    """Tells a model from what it was before a layer was changed: by its configuration, and by plain
    values among its layers' attributes, which need not stand in one. Keras's Normalization computes
    with tensors that it makes of its weights when they are loaded: constants of what is compiled.
    """
    try:
        config = repr(model.get_config())
    except Exception:  # of a class of the user's own, which need not have a configuration
        config = ""
    adapted = tuple(
        keras.ops.convert_to_numpy(part).tobytes()
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Normalization)
        for part in (layer.mean, layer.variance)
        if part is not None
    )
    return hash((config, plain_values(model), adapted))
