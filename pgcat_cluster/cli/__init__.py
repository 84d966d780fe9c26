"""Commands a person types."""


def main() -> None:
    raise SystemExit("not built yet")
