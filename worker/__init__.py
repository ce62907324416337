"""The worker: claims runs, supervises a training process per slot and reports its events. Never imports torch.

A Celery message only nudges the worker; the backend decides what it runs. The worker starts ``python -m core train`` as
a process and never trains itself, so that a cancelled training ends for certain and a crash takes nothing else along.
"""
