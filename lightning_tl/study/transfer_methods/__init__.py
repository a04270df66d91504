"""Which way of fine-tuning? The comparison of the transfer methods of a study, by error, forgetting and samples."""
