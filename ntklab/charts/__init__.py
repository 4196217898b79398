"""The figures of the book: one theme, charts that need no kernel, numbers that prose can quote.

Call `register()` once at the top of a chapter. Every chart goes through `show` (or `finish`),
which asks for a spoken description, refuses more than 2,000 rows and rounds what it stores.
With `NTKLAB_BOOK=1` (the build of the pages) charts are transparent and take the text's colour,
so that light and dark need no redraw; elsewhere they are dark on white.

Only the book imports this module. It needs Altair and pandas; images need nothing more.
"""

from ntklab.charts.chapter_data import chapter_data as chapter_data
from ntklab.charts.features import feature_plane as feature_plane
from ntklab.charts.frames import sliding_lines as sliding_lines
from ntklab.charts.images import Html as Html
from ntklab.charts.images import heatmap_png as heatmap_png
from ntklab.charts.images import image_grid as image_grid
from ntklab.charts.images import image_uri as image_uri
from ntklab.charts.lines import accuracy_curves as accuracy_curves
from ntklab.charts.lines import lines as lines
from ntklab.charts.matrices import sliding_matrices as sliding_matrices
from ntklab.charts.numbers import number as number
from ntklab.charts.plane import dashed_lines as dashed_lines
from ntklab.charts.plane import kinds_map as kinds_map
from ntklab.charts.plane import number_slider as number_slider
from ntklab.charts.plane import overlay as overlay
from ntklab.charts.plane import score_map as score_map
from ntklab.charts.points import against as against
from ntklab.charts.points import dumbbells as dumbbells
from ntklab.charts.polar import polar_paths as polar_paths
from ntklab.charts.robustness import robustness as robustness
from ntklab.charts.slider import adversarial_slider as adversarial_slider
from ntklab.charts.tables import ledger_table as ledger_table
from ntklab.charts.theme import DASHES as DASHES
from ntklab.charts.theme import PALETTE as PALETTE
from ntklab.charts.theme import SHAPES as SHAPES
from ntklab.charts.theme import finish as finish
from ntklab.charts.theme import register as register
from ntklab.charts.theme import show as show
from ntklab.charts.timing import benchmarks as benchmarks
from ntklab.charts.timing import machine as machine
from ntklab.charts.timing import side_by_side as side_by_side
