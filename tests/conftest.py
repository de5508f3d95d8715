"""What every test starts from."""

import tensorflow as tf

# The oracles round as float32 does; a GPU from Ampere on would use TF32.
tf.config.experimental.enable_tensor_float_32_execution(False)
