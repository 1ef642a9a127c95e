"""The transformers of all families."""

from openhart.transformer.masked import MaskedTransformer
from openhart.transformer.model import HartTransformer
from openhart.transformer.raster import RasterTransformer

AnyTransformer = HartTransformer | MaskedTransformer | RasterTransformer
