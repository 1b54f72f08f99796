"""How one medium becomes tokens: plan(facts) -> integers, realize(pixels, plan) -> tensors."""
