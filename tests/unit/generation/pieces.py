"""The pieces of a generator, collected until none of its requests runs."""

from tasks.shared.generation.protocol import Generator, Piece


def finish(generator: Generator) -> dict[str, Piece]:
    """Step until no request runs; the pieces by request."""
    pieces: dict[str, Piece] = {}
    while generator.num_running:
        pieces |= {piece.request_id: piece for piece in generator.step()}
    return pieces


def drain(generator: Generator) -> dict[str, Piece]:
    """The same, with every request released as its piece comes."""
    pieces: dict[str, Piece] = {}
    while generator.num_running:
        for piece in generator.step():
            pieces[piece.request_id] = piece
            generator.release(piece.request_id)
    return pieces
