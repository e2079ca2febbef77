"""Documents of an index over HTTP: add, replace, read, delete."""

from __future__ import annotations

from relsdk.errors import InputError
from relsdk.formats.documents import document_from_mapping
from relsdk.records import Document
from relsdk_serve._bodies import (
    AcceptedAnswer,
    DeletedAnswer,
    DeleteRequest,
    DocumentBody,
    DocumentsRequest,
    WrittenAnswer,
)
from relsdk_serve._catalogue import ServedIndex
from relsdk_serve._embeddings import check_count
from relsdk_serve._faults import NotFoundError, RequestError
from relsdk_serve._http import Call, Reply, json_reply
from relsdk_serve._jobs import Lane
from relsdk_serve._search import where_of

__all__ = ["delete_document", "delete_documents", "get_document", "put_documents"]


async def put_documents(call: Call) -> Reply:
    """Add documents, in place of those that have their ids."""
    request = call.body(DocumentsRequest)
    served = _served(call, request.index)
    check_count(call, len(request.documents))
    if not request.documents:
        raise RequestError(400, "documents is empty; send at least one", param="documents")
    documents = []
    for position, fields in enumerate(request.documents):
        try:
            documents.append(document_from_mapping(fields))
        except InputError as error:
            place = f"documents[{position}]"
            raise RequestError(400, f"{place}: {error}", param=place) from None
    call.service.engine.admit(Lane.BULK)
    call.cost.inputs = len(documents)
    count, generation = await call.service.writers[served.name].upsert(
        documents, wait=request.wait, size=call.size
    )
    if not request.wait:
        return json_reply(AcceptedAnswer(accepted=count), 202)
    return json_reply(WrittenAnswer(written=count, generation=generation))


async def get_document(call: Call) -> Reply:
    """Return a document."""
    served = _served(call, call.query("index"))
    index, identifier = served.index.snapshot(), call.path("id")

    def work() -> Document:
        try:
            return index.get([identifier])[0]
        except InputError:
            raise NotFoundError(f"there is no document {identifier!r}") from None

    document = await call.service.runner.call("get", work, call.cost)
    return json_reply(
        DocumentBody(
            id=document.id, title=document.title, text=document.text, metadata=dict(document.metadata)
        )
    )


async def delete_document(call: Call) -> Reply:
    """Delete a document."""
    served = _served(call, call.query("index"))
    identifier = call.path("id")
    count, generation = await call.service.writers[served.name].delete([identifier], None, wait=True)
    if count == 0:
        raise NotFoundError(f"there is no document {identifier!r}")
    return json_reply(DeletedAnswer(deleted=count, generation=generation))


async def delete_documents(call: Call) -> Reply:
    """Delete documents by ids or by a filter."""
    request = call.body(DeleteRequest)
    served = _served(call, request.index)
    if (request.ids is None) == (request.where is None):
        raise RequestError(400, "give either ids or where: which documents to delete", param="ids")
    where = where_of(request.where)
    if request.where is not None and not where:
        raise RequestError(
            400, "where is empty, which allows every document; nothing was deleted: name a condition"
        )
    writer = call.service.writers[served.name]
    count, generation = await writer.delete(request.ids, where, wait=request.wait, size=call.size)
    if not request.wait:
        return json_reply(AcceptedAnswer(accepted=count), 202)
    return json_reply(DeletedAnswer(deleted=count, generation=generation))


def _served(call: Call, name: str | None) -> ServedIndex:
    served = call.service.catalogue.index(name)
    call.facts["index"] = served.name
    return served
