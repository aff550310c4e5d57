"""Numbers in the words and charts of the report."""


def short_number(value: float) -> str:
    """A number in about five characters or fewer: 0.05, 250, 40k, 2.5M."""
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{value:.4g}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 user, 2,000 users."""
    return f"{grouped_number(number)} {noun}{'' if number == 1 else 's'}"


def grouped_number(number: int) -> str:
    """A number with commas between thousands; `short_number` from 10,000 up."""
    return f"{number:,}" if number < 10_000 else short_number(number)
