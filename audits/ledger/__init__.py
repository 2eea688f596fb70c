"""What was once forgotten: the ledger of deletions, and the check that a model still forgets them."""
