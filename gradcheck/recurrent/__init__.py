"""What a recurrent target must satisfy beside having the right gradient."""

from gradcheck.recurrent.sequences import check_sequence

__all__ = ["check_sequence"]
