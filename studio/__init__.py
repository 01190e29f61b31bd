"""The page to mark, propagate and correct on: ``corrfractal studio``.

- ``cli``: the command. ``server``: the web server and its routes. ``guard``: who may talk to it.
- ``page``, ``canvas.js``: what the browser shows; the server holds all state.
- ``studio``: the videos, models and the work in progress. ``project``: one video with its marks and
  results, as files. ``runner``: the thread that propagates. ``pictures``: frames and masks as the
  page shows them.
"""
