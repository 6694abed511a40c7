"""Gaussian scorers: one Gaussian per normal class, or a Gaussian mixture over all classes."""

import warnings
from typing import Any, Literal

import numpy as np

from metrad.errors import InputError
from metrad.scorers.base import Scorer, stored

_FEWEST = 3
_LEAST_PIVOT = 1e-7
_LEAST_VARIANCE = 1e-10  # of a kept principal component, as a share of the variance of the first
_ROUNDING = 1e-20
_MIXTURE = ("weights", "means", "covariances", "precisions_cholesky")


class Mahalanobis(Scorer):
    """Mahalanobis distance to the nearest normal class.

    s(x) = min over classes c of √((x - μ_c)ᵀ Σ_c⁻¹ (x - μ_c)), not squared. Σ_c is the Ledoit-Wolf estimate, which can
    be inverted even with fewer images than dimensions.

    Source: Lee 2018, arXiv 1807.03888, with a covariance for each class; Ledoit & Wolf 2004, "A well-conditioned
    estimator for large-dimensional covariance matrices", as in scikit-learn.
    """

    def check_size(self, normal_images: int) -> None:
        """Raise if there are too few images for a covariance.

        Raises:
            InputError: there are fewer than three; the estimate from two is not shrunk and cannot be inverted.
        """
        super().check_size(normal_images)
        if normal_images < _FEWEST:
            raise InputError(
                f"scorer Mahalanobis needs at least {_FEWEST} images of each normal class for its covariance, got "
                f"{normal_images}; raise dataset.sizes.normal"
            )

    def _fit(self, normal: np.ndarray, classes: np.ndarray) -> None:
        numbers, counts = np.unique(classes, return_counts=True)
        self.check_size(int(counts.min()))
        fitted = [_gaussian(normal[classes == number].astype(np.float64), int(number)) for number in numbers]
        self.means_ = np.stack([mean for mean, _ in fitted])
        self.whitenings_ = np.stack([whitening for _, whitening in fitted])

    def _score(self, embeddings: np.ndarray) -> np.ndarray:
        classes = zip(self.means_, self.whitenings_, strict=True)
        distances = [np.linalg.norm((embeddings - mean) @ whitening.T, axis=1) for mean, whitening in classes]
        scores: np.ndarray = np.min(distances, axis=0)
        return scores

    def _state(self) -> dict[str, Any]:
        return {"means": self.means_, "whitenings": self.whitenings_}

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        width = self.width_
        self.means_ = stored(state, "means", None, width)
        self.whitenings_ = stored(state, "whitenings", len(self.means_), width, width)


class GMM(Scorer):
    """Negative log-likelihood under a Gaussian mixture of principal components.

    s(x) = -ln Σ_i w_i N(z; μ_i, Σ_i), with z the whitened principal components of x, fitted on the normal embeddings. A
    covariance in the full width would need more images than there are. Deviations outside the kept principal components
    do not change the score. Directions without variance are not kept. One mixture covers all normal classes.

    Source: scikit-learn, ``PCA`` and ``GaussianMixture``.

    Args:
        components: number of Gaussians; at most the number of normal images.
        covariance_type: ``full``, ``tied``, ``diag`` or ``spherical``.
        dimensions: largest number of principal components to keep.
        reg_covar: added to the variances of the Gaussians; the whitened components have variance 1.
        seed: seed of the k-means that initialises the mixture.
    """

    def __init__(
        self,
        *,
        components: int = 4,
        covariance_type: Literal["full", "tied", "diag", "spherical"] = "diag",
        dimensions: int = 32,
        reg_covar: float = 1e-3,
        seed: int = 0,
    ) -> None:
        for name, value in (("components", components), ("dimensions", dimensions)):
            if value < 1:
                raise InputError(f"scorer.{name} must be at least 1, got {value}")
        if not 0 <= reg_covar < np.inf:
            raise InputError(f"scorer.reg_covar must be at least 0, got {reg_covar}")
        if not 0 <= seed < 2**32:
            raise InputError(f"scorer.seed must be at least 0 and below 2**32, got {seed}")
        self.components = components
        self.covariance_type = covariance_type
        self.dimensions = dimensions
        self.reg_covar = reg_covar
        self.seed = seed

    def check_size(self, normal_images: int) -> None:
        """Raise if there are too few normal images for the mixture.

        Raises:
            InputError: there are fewer images than Gaussians, or fewer than two.
        """
        super().check_size(normal_images)
        if self.components > normal_images:
            raise InputError(
                f"scorer.components={self.components} is larger than the {normal_images} normal images; lower it"
            )
        if normal_images < 2:
            raise InputError("scorer GMM needs at least 2 normal images, got 1; raise dataset.sizes.normal")

    def _figures(self) -> dict[str, float]:
        return {
            "log_likelihood": self.log_likelihood_,
            "dimensions": self.basis_.shape[1],
            "converged": self.converged_,
        }

    def _fit(self, normal: np.ndarray, classes: np.ndarray) -> None:
        del classes  # one mixture covers all classes
        self.mean_, self.basis_ = _principal(normal.astype(np.float64), self.dimensions)
        projected = self._projected(normal)
        mixture = self._mixture()
        try:
            with warnings.catch_warnings():
                from sklearn.exceptions import ConvergenceWarning

                warnings.simplefilter("ignore", ConvergenceWarning)  # reported by fitted_figures
                mixture.fit(projected)
        except ValueError as error:
            raise InputError(
                f"scorer GMM cannot fit {self.components} components to {len(normal)} normal images: a covariance "
                "is singular; raise scorer.reg_covar or lower scorer.components"
            ) from error
        self.mixture_ = mixture
        self.log_likelihood_ = float(mixture.score(projected))
        self.converged_ = float(mixture.converged_)

    def _projected(self, embeddings: np.ndarray) -> np.ndarray:
        projected: np.ndarray = (embeddings - self.mean_) @ self.basis_
        return projected

    def _mixture(self) -> Any:
        from sklearn.mixture import GaussianMixture

        return GaussianMixture(
            self.components,
            covariance_type=self.covariance_type,
            reg_covar=self.reg_covar,
            max_iter=500,
            random_state=self.seed,
        )

    def _score(self, embeddings: np.ndarray) -> np.ndarray:
        scores: np.ndarray = -self.mixture_.score_samples(self._projected(embeddings))
        return scores

    def _shaping(self) -> dict[str, Any]:
        names = ("components", "covariance_type", "dimensions", "reg_covar", "seed")
        return {name: getattr(self, name) for name in names}

    def _state(self) -> dict[str, Any]:
        mixture = {name: getattr(self.mixture_, f"{name}_") for name in _MIXTURE}
        figures = {"log_likelihood": self.log_likelihood_, "converged": self.converged_}
        return {"mean": self.mean_, "basis": self.basis_, **figures, **mixture}

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        width = self.width_
        self.mean_, self.basis_ = stored(state, "mean", width), stored(state, "basis", width, None)
        self.log_likelihood_, self.converged_ = (
            float(stored(state, "log_likelihood")),
            float(stored(state, "converged")),
        )
        self.mixture_, shapes = self._mixture(), self._shapes(self.basis_.shape[1])
        for name in _MIXTURE:
            setattr(self.mixture_, f"{name}_", stored(state, name, *shapes[name]))

    def _shapes(self, dimensions: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the mixture's arrays, as scikit-learn keeps them."""
        count, square = self.components, (dimensions, dimensions)
        kinds = {"full": (count, *square), "tied": square, "diag": (count, dimensions), "spherical": (count,)}
        shape = kinds[self.covariance_type]
        return {"weights": (count,), "means": (count, dimensions), "covariances": shape, "precisions_cholesky": shape}


def _gaussian(embeddings: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean μ (D,) and whitening W = L⁻¹ (D, D) of a class with Σ = LLᵀ, so that ‖W(x - μ)‖ is the distance."""
    from sklearn.covariance import LedoitWolf

    estimate = LedoitWolf().fit(embeddings)
    try:
        factor = np.linalg.cholesky(estimate.covariance_)
    except np.linalg.LinAlgError:
        factor = np.zeros((1, 1))
    pivots = np.diag(factor)
    if _alike(embeddings) or pivots.min() <= _LEAST_PIVOT * pivots.max():
        raise InputError(
            f"scorer Mahalanobis: the covariance of normal class {number} is singular, as its {len(embeddings)} images "
            "are too few or too much alike; add images or choose scorer=knn"
        )
    return estimate.location_, np.linalg.inv(factor)


def _principal(embeddings: np.ndarray, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (D,) and the whitened principal directions (D, at most ``dimensions``) of the embeddings."""
    from sklearn.decomposition import PCA

    if _alike(embeddings):
        raise InputError("scorer GMM: the normal embeddings are all alike; a mixture needs some that differ")
    mean = embeddings.mean(axis=0)
    # Centred first: this solver subtracts the mean's outer product, which loses digits if the mean is large.
    analysis = PCA(min(dimensions, *embeddings.shape), svd_solver="covariance_eigh").fit(embeddings - mean)
    variances = analysis.explained_variance_
    varied = variances > _LEAST_VARIANCE * variances[0]
    return mean, (analysis.components_[varied] / np.sqrt(variances[varied])[:, None]).T


def _alike(embeddings: np.ndarray) -> bool:
    """Return whether the embeddings (N, D) differ by no more than the rounding error of their mean."""
    return bool(embeddings.var(axis=0).sum() <= _ROUNDING * np.square(embeddings).sum(axis=1).mean())
