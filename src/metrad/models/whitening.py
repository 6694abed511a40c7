"""Whitening: a linear map after which embeddings of a class vary alike in all directions."""

import numpy as np


def within_class_whitening(embeddings: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean c (D,) of the class means, and W (D, D) with WᵀW = Σ⁻¹ of the covariance Σ about these means.

    Directions in which images of one class differ anyway count less afterwards, and those that tell classes apart more;
    what to compare two embeddings by is the angle between them as seen from c. Σ is shrunk by Ledoit and Wolf's
    estimate, so it can be inverted where there are fewer images than directions. W is symmetric: of all such maps the
    one that moves embeddings least.

    Args:
        embeddings: (N, D), in float64 from here on.
        labels: class of each, (N,) integers.

    Raises:
        ValueError: within their classes all embeddings are alike.

    Source:
        Hatch, Kajarekar and Stolcke 2006, Within-class covariance normalization for SVM-based speaker recognition,
        Interspeech; Ledoit and Wolf 2004; Kessy, Lewin and Strimmer 2018, arXiv 1512.00809 (ZCA whitening).
    """
    from sklearn.covariance import ledoit_wolf

    centred = np.asarray(embeddings, dtype=np.float64)
    _, places = np.unique(labels, return_inverse=True)
    means = np.stack([centred[places == place].mean(axis=0) for place in range(places.max() + 1)])
    centred = centred - means[places]
    variances, directions = np.linalg.eigh(ledoit_wolf(centred, assume_centered=True)[0])
    if not variances[-1] > 0 or variances[0] <= np.finfo(np.float64).eps * variances[-1]:
        raise ValueError("within their classes the embeddings are alike, or nearly so in some direction")
    return means.mean(axis=0), (directions / np.sqrt(variances)) @ directions.T
