"""Order-sensitive probing: do a token's codes tell what no bag of tokens can? See docs/evaluations/order-probing.md."""

from chronosae.evals.order_probing.data import OrderProbingOptions
from chronosae.evals.order_probing.evaluation import OrderProbing

__all__ = ["OrderProbing", "OrderProbingOptions"]
