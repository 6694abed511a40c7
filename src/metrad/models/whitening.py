"""Whitening: a linear map after which embeddings of one class vary equally in all directions."""

import numpy as np

from metrad.errors import InputError


def within_class_whitening(embeddings: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean c (D,) of the class means, and W (D, D) with WᵀW = Σ⁻¹ for the within-class covariance Σ.

    Whitening gives less weight to directions in which images of one class vary, and more to those that separate
    classes. Whitened embeddings W(e - c) are compared by their angle. Σ is the Ledoit-Wolf estimate, which can be
    inverted even with fewer images than dimensions. W is symmetric: of all whitening maps it changes embeddings least.

    Args:
        embeddings: (N, D); the computation is in float64.
        labels: class of each embedding, (N,) integers.

    Raises:
        InputError: within each class the embeddings are alike, or nearly alike in some direction.

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
        raise InputError(
            "whiten=true: within each class the embeddings are alike, or nearly alike in some direction; give more "
            "images, or whiten=false"
        )
    return means.mean(axis=0), (directions / np.sqrt(variances)) @ directions.T
