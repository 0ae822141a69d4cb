"""What a recurrent target must satisfy beside having the right gradient."""

from gradcheck.recurrent.fixed_points import check_fixed_point
from gradcheck.recurrent.sequences import check_sequence

__all__ = ["check_fixed_point", "check_sequence"]
