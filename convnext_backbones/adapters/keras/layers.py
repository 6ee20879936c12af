"""The parts of the networks in Keras, named and ordered as in network/convnext.py. Maps are (N, H, W, C)."""

import keras
from keras import ops

EPS = 1e-6  # of every LayerNorm and GRN
SMALLEST_ENERGY = 1e-30  # keeps the gradient of an all-zero map 0


def draw() -> keras.initializers.Initializer:
    """The official initial values of kernels; a new one each time, as one of Keras repeats itself."""
    return keras.initializers.RandomNormal(stddev=0.02)


def layer_norm(name: str, dtype, eps: float = EPS) -> keras.layers.LayerNormalization:
    return keras.layers.LayerNormalization(epsilon=eps, name=name, dtype=dtype)


def patches(dim: int, size: int, name: str, dtype) -> keras.layers.Conv2D:
    """A convolution of patches that do not overlap."""
    return keras.layers.Conv2D(
        dim, size, strides=size, data_format="channels_last", kernel_initializer=draw(),
        name=name, dtype=dtype,
    )  # fmt: skip


class GRN(keras.layers.Layer):
    """Global response normalisation of an (N, H, W, C) map (V2 paper, section 4), its norms in float32."""

    def build(self, input_shape):
        dim = input_shape[-1]
        self.gamma = self.add_weight(shape=(dim,), initializer="zeros", name="gamma")
        self.beta = self.add_weight(shape=(dim,), initializer="zeros", name="beta")

    def call(self, x):
        wide = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
        energy = ops.sum(ops.square(wide), axis=(1, 2), keepdims=True)
        norm = ops.sqrt(ops.maximum(energy, SMALLEST_ENERGY))
        relative = norm / (ops.mean(norm, axis=-1, keepdims=True) + EPS)  # (N, 1, 1, C)
        scale = 1 + ops.cast(self.gamma, wide.dtype) * relative
        return x * ops.cast(scale, x.dtype) + ops.cast(self.beta, x.dtype)


class Block(keras.layers.Layer):
    """Depthwise 7x7, LayerNorm, pointwise C -> 4C, GELU, [V2: GRN], pointwise 4C -> C, residual.

    V1 scales the branch by gamma (layer scale). Drop path is Keras's dropout of whole samples.
    """

    def __init__(
        self, dim: int, *, version: int, drop_path_rate: float, layer_scale_init_value, name, dtype
    ):
        super().__init__(name=name, dtype=dtype)
        self.dim = dim
        self.layer_scale_init_value = layer_scale_init_value
        self.dwconv = keras.layers.DepthwiseConv2D(
            7, padding="same", data_format="channels_last", depthwise_initializer=draw(),
            name="dwconv", dtype=dtype,
        )  # fmt: skip
        self.norm = layer_norm("norm", dtype)
        self.pwconv1 = keras.layers.Dense(
            4 * dim, kernel_initializer=draw(), name="pwconv1", dtype=dtype
        )
        self.grn = GRN(name="grn", dtype=dtype) if version == 2 else None
        self.pwconv2 = keras.layers.Dense(
            dim, kernel_initializer=draw(), name="pwconv2", dtype=dtype
        )
        self.scaled = version == 1 and bool(layer_scale_init_value)
        self.gamma = None
        self.drop_path = keras.layers.Dropout(
            drop_path_rate, noise_shape=(None, 1, 1, 1), name="drop_path", dtype=dtype
        )

    def build(self, input_shape):
        narrow, wide = (None, None, None, self.dim), (None, None, None, 4 * self.dim)
        self.dwconv.build(narrow)
        self.norm.build(narrow)
        self.pwconv1.build(narrow)
        if self.grn is not None:
            self.grn.build(wide)
        self.pwconv2.build(wide)
        if self.scaled:
            self.gamma = self.add_weight(
                shape=(self.dim,),
                initializer=keras.initializers.Constant(self.layer_scale_init_value),
                name="gamma",
            )

    def call(self, x, training=None):
        shortcut = x
        x = self.dwconv(x)
        x = self.norm(x)
        x = self.pwconv1(x)
        x = ops.gelu(x, approximate=False)
        if self.grn is not None:
            x = self.grn(x)
        x = self.pwconv2(x)
        if self.gamma is not None:
            x = self.gamma * x
        return self.drop_path(x, training=training) + shortcut


class Stem(keras.layers.Layer):
    """Pictures to a map: a convolution of patches, and LayerNorm."""

    def __init__(self, in_channels: int, dim: int, *, patch_size: int, name, dtype):
        super().__init__(name=name, dtype=dtype)
        self.in_channels, self.dim = in_channels, dim
        self.conv = patches(dim, patch_size, "conv", dtype)
        self.norm = layer_norm("norm", dtype)

    def build(self, input_shape):
        self.conv.build((None, None, None, self.in_channels))
        self.norm.build((None, None, None, self.dim))

    def call(self, images):
        return self.norm(self.conv(images))


class Downsample(keras.layers.Layer):
    """LayerNorm and a 2x2 convolution of stride 2, between two stages."""

    def __init__(self, in_dim: int, out_dim: int, *, name, dtype):
        super().__init__(name=name, dtype=dtype)
        self.in_dim = in_dim
        self.norm = layer_norm("norm", dtype)
        self.conv = patches(out_dim, 2, "conv", dtype)

    def build(self, input_shape):
        self.norm.build((None, None, None, self.in_dim))
        self.conv.build((None, None, None, self.in_dim))

    def call(self, x):
        return self.conv(self.norm(x))


class Stage(keras.layers.Layer):
    """Blocks one after another."""

    def __init__(self, blocks: list[Block], *, name, dtype):
        super().__init__(name=name, dtype=dtype)
        self.blocks = blocks

    def build(self, input_shape):
        for block in self.blocks:
            block.build(input_shape)

    def call(self, x, training=None):
        for block in self.blocks:
            x = block(x, training=training)
        return x
