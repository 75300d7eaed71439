"""Where runs are logged beside their own files: W&B, or nowhere. The only home of wandb."""
