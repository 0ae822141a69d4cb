"""Where the steps of differences lie, in units of the leaf's size."""

__all__ = ["COARSER", "FINER", "FINEST", "FIRST", "NARROW", "OFF_GRID", "RUNGS", "STALLED", "STILL"]

RUNGS = 4  # at most: three extrapolations; a fourth gains nothing once rounding dominates

# A flight starts this many halvings below the leaf's scale. The first, 2⁻⁷ to 2⁻¹⁰, has a rounding
# of 2¹⁰ eps = 2e-13 and a truncation of as much for a function that bends on an eighth of that
# scale, as a sum over 64 entries does. The last ends at 1e-9, where the rounding of a float64 slope
# is 1e-7: below it no kink can be told from one at the point.
# Where noise decides, coarser steps divide it by more: up to half the leaf's size, and for a
# straight line up to 2¹⁵ times it.
FIRST, FINER, COARSER = 7, (12, 17, 22, 27), (5, 3, 1, -3, -7, -11, -15)

# Where only a claim is to be confirmed, kinks are no matter: 1 / (x - 1) a ten-millionth beside 1;
# and of sin x at 1e9 all other steps lead over many periods.
FINEST = (34, 42)

# Steps are no powers of two: x + h would be rounded away in the same manner on both sides wherever
# it is added to something larger, and a rounding that is always the same is one that nobody sees.
# Nor may it halve with the step: the binary digits of two thirds, 0.101010..., alternate.
OFF_GRID = 2 / 3

# The part of a leaf's usual size below which an entry wants steps of its own.
NARROW = 2.0**-10

# A part of the outputs this large that moves at the first step and stands still at the last is
# reason to suspect a staircase. The steps of a bfloat16 are 2⁻⁷, of the order of the first flight.
STALLED = 0.1

# A step at which a smooth float64 value moves yet, and no stairs do.
STILL = 2.0**-27
