"""The worker: claims runs, supervises a training process per slot and reports its events. Never imports torch.

A Celery message (a nudge) only tells the worker to send a claim; the backend decides which run it gets. The worker
starts ``python -m core train`` as a separate process and never trains in its own process. A cancelled training can thus
always be killed, and a training that crashes ends neither the worker nor other trainings.
"""
