"""Real servers and programs that tests talk to instead of the outside world, with the habits of the real ones.

    nvidia_smi      an `nvidia-smi` on PATH
    chromium        a real browser, for report pages
    kaggle_server   Kaggle's API, for the real `kaggle` program; kaggle_http is its wire, and kaggle_machine runs
                    what is pushed
    wandb_server    W&B's server, for the real wandb client; wandb_http is its wire, wandb_graphql and wandb_fields
                    answer queries, wandb_state has the rules, wandb_records the things, wandb_search the next points
    wandb_client    processes of the real wandb client

Each docstring lists the habits that its module keeps. Nothing here was ever compared with a recording of the real
servers: the habits are from their clients' sources, from documentation and from reported issues, and a guess is
called a guess.
"""
