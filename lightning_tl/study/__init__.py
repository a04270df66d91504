"""Many runs as one: the plan, the workers that run it, its records and its report."""
