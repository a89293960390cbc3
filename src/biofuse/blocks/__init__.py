"""Id-joined matrices per encoder, and what adds up over them."""
