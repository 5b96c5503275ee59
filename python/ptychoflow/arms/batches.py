"""The batch size of a later try: half of the one before, on a GPU only."""


def effective_batch_size(asked: int, *, device: str, attempt: int) -> int:
    """Return the batch size that try number `attempt` uses.

    Why the try before ended is not known here. A GPU may have been too small (exit code 77), so each further try takes half as
    much; on the CPU a batch has no such limit and the result must not depend on the number of tries.

    Args:
        asked: batch size of the configuration, at least 1.
        device: `cpu` or `cuda`.
        attempt: 1 for the first try of the task.
    """
    return max(1, asked // 2 ** (attempt - 1)) if device == "cuda" else asked
