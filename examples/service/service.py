"""A web service for the images of a node, with aiohttp and AsyncClient.

    GET  /images                    the images, and whether each is complete
    GET  /diagnosis?ref=REF         what an image lacks, and what fetches it
    POST /pull?ref=REF              pull an image; JSON lines with the progress, the last one with the result

Run as root: python service.py [ADDRESS [NAMESPACE]]; it listens on 127.0.0.1:8080, without a login.
A client that goes away ends its pull; what was downloaded is kept for a day, and the next pull resumes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.typedefs import Handler

from pyctrd import AsyncClient, InvalidInput, NotFound, ProgressStream, PyctrdError

CLIENT = web.AppKey("client", AsyncClient)


async def images(request: web.Request) -> web.Response:
    """List the images."""
    found = await request.app[CLIENT].images.diagnose_all()
    return web.json_response([{"name": one.image, "complete": one.complete} for one in found])


async def diagnosis(request: web.Request) -> web.Response:
    """Diagnose one image."""
    found = await request.app[CLIENT].images.diagnose(request.query["ref"])
    platforms = [
        {"platform": str(one.platform), "complete": one.complete, "missing_bytes": one.missing_bytes}
        for one in found.platforms
    ]
    return web.json_response({"image": found.image, "complete": found.complete, "platforms": platforms})


async def pull(request: web.Request) -> web.StreamResponse:
    """Pull an image, and stream the progress."""
    ref = request.query["ref"]
    response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
    await response.prepare(request)

    async def send(**line: object) -> None:
        await response.write(json.dumps(line).encode() + b"\n")

    events = ProgressStream()
    pulling = asyncio.create_task(request.app[CLIENT].images.pull(ref, progress=events), name=f"pull {ref}")
    try:
        async for event in events:
            if event.action == "downloaded" and event.descriptor:
                await send(downloaded=event.descriptor.digest, bytes=event.descriptor.size)
        result = await pulling
        await send(image=result.image.name, digest=result.image.target.digest, bytes=result.bytes_fetched)
    except PyctrdError as error:
        await send(error=error.message, hint=error.hint)
    finally:
        pulling.cancel()  # if the client went away
        await asyncio.wait([pulling])
    return response


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer with the error and its hint."""
    try:
        return await handler(request)
    except KeyError as error:
        return web.json_response({"error": f"the parameter {error} is missing"}, status=400)
    except PyctrdError as error:
        status = 404 if isinstance(error, NotFound) else 400 if isinstance(error, InvalidInput) else 502
        return web.json_response({"error": error.message, "hint": error.hint}, status=status)


def application(address: str | None = None, namespace: str | None = None) -> web.Application:
    """Make the application."""

    async def client(app: web.Application) -> AsyncIterator[None]:
        async with AsyncClient(address, namespace) as app[CLIENT]:
            yield

    app = web.Application(middlewares=[errors])
    app.cleanup_ctx.append(client)
    app.router.add_get("/images", images)
    app.router.add_get("/diagnosis", diagnosis)
    app.router.add_post("/pull", pull)
    return app


if __name__ == "__main__":
    # A request ends when its client goes away, and so does its pull.
    web.run_app(application(*sys.argv[1:]), host="127.0.0.1", port=8080, handler_cancellation=True)
