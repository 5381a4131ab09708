#!/usr/bin/env python3
"""The life of a webhook, told by the vendor's own client (PyPI `linkbreakers`, 1.183.x).

    pip install 'linkbreakers==1.183.*'
    WEBHOOKS_API_URL=http://127.0.0.1:8080 WEBHOOKS_TOKEN=lbk_... python life_of_a_webhook.py

The token may do everything, and its workspace has no webhook yet and room for three. Nothing of the client is
patched: if this script passes, programs written for the vendor's API find ours unchanged. It cleans
up after itself and exits 1 at the first surprise.
"""

import datetime
import os
import sys
import uuid

import linkbreakers
from linkbreakers.exceptions import (
    BadRequestException,
    NotFoundException,
    UnauthorizedException,
    UnprocessableEntityException,
)

URL = os.environ["WEBHOOKS_API_URL"].rstrip("/")
TOKEN = os.environ["WEBHOOKS_TOKEN"]
# Where this installation lets webhooks point; nothing is sent there.
ENDPOINT = os.environ.get("WEBHOOKS_TEST_ENDPOINT", "https://example.com/hook")


def api(token=TOKEN):
    configuration = linkbreakers.Configuration(host=URL, access_token=token)
    return linkbreakers.WebhooksApi(linkbreakers.ApiClient(configuration))


def create_request(**more):
    return linkbreakers.CreateWebhookRequest(name="vendor client", endpoint_url=ENDPOINT, **more)


def update_body(**members):
    return linkbreakers.WebhooksServiceUpdateBody(**members)


def header(response, name):
    # The client hands out a plain dict, in the spelling of the wire.
    return {key.lower(): value for key, value in response.headers.items()}.get(name.lower())


def check(condition, what):
    if not condition:
        raise AssertionError(what)
    print("ok  ", what)


def raises(exception, what, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except exception as error:
        check('"code"' in error.body and '"codeType"' in error.body, what)
        return
    raise AssertionError("no %s: %s" % (exception.__name__, what))


def life(webhooks, made):
    link = str(uuid.uuid4())
    created = webhooks.webhooks_service_create(create_request(link_id=link)).webhook
    made.append(created.id)
    check(created.name == "vendor client" and created.endpoint_url == ENDPOINT, "a webhook is created")
    check(created.status == linkbreakers.WebhookStatus.WEBHOOK_STATUS_ACTIVE, "it is active")
    check(created.source == linkbreakers.WebhookSource.WEBHOOK_SOURCE_LINKBREAKERS, "it has a source")
    check(created.link_id == link, "it is bound to its link")
    check(created.triggers == ["KIND_EXIT"], "it listens to exit steps")
    check(created.success_count == 0 and created.failure_count == 0, "its counters are numbers")
    check(isinstance(created.created_at, datetime.datetime), "its times are times")
    check(created.last_sent_at is None, "what has not happened is absent")

    got = webhooks.webhooks_service_get(created.id).webhook
    check(got == created, "it reads back as it was")
    same = webhooks.webhooks_service_update(created.id, update_body()).webhook
    check(same == created, "an empty update changes nothing")
    changed = webhooks.webhooks_service_update(created.id, update_body(name="renamed", link_id="", triggers=[])).webhook
    check(changed.name == "renamed" and not changed.link_id and changed.triggers == [], "members that are sent are set")
    check(changed.endpoint_url == ENDPOINT, "members that are not sent stay")
    for status in ("WEBHOOK_STATUS_PAUSED", "WEBHOOK_STATUS_DISABLED", "WEBHOOK_STATUS_ACTIVE"):
        status = linkbreakers.WebhookStatus(status)
        check(webhooks.webhooks_service_update(created.id, update_body(status=status)).webhook.status == status, "it becomes %s" % status.value)


def lists(webhooks, made):
    for _ in range(2):
        made.append(webhooks.webhooks_service_create(create_request()).webhook.id)
    seen, token = [], None
    while True:
        page = webhooks.webhooks_service_list(page_size=1, page_token=token)
        seen += [webhook.id for webhook in page.webhooks]
        check(page.total_count == len(made) == 3, "the total is exact")
        token = page.next_page_token
        if not token:
            break
    check(len(seen) == len(set(seen)) and set(made) <= set(seen), "pages show each webhook once")
    webhooks.webhooks_service_update(made[1], update_body(status=linkbreakers.WebhookStatus.WEBHOOK_STATUS_PAUSED))
    paused = webhooks.webhooks_service_list(status="WEBHOOK_STATUS_PAUSED").webhooks
    check(made[1] in [webhook.id for webhook in paused] and made[0] not in [webhook.id for webhook in paused], "the filter filters")


def refusals(webhooks, made):
    raises(NotFoundException, "an unknown id is not found", webhooks.webhooks_service_get, str(uuid.uuid4()))
    raises(BadRequestException, "a blank name is refused", webhooks.webhooks_service_update, made[0], update_body(name=" "))
    raises(BadRequestException, "a broken page token is refused", webhooks.webhooks_service_list, page_token="broken")
    raises(UnauthorizedException, "a wrong token is refused", api("wrong").webhooks_service_list)


def keys(webhooks, made):
    key = str(uuid.uuid4())
    first = webhooks.webhooks_service_update_with_http_info(made[0], update_body(name="once"), idempotency_key=key)
    again = webhooks.webhooks_service_update_with_http_info(made[0], update_body(name="once"), idempotency_key=key)
    check(first.data == again.data and header(again, "Idempotent-Replayed") == "true", "a key gives the first answer again")
    raises(
        UnprocessableEntityException,
        "a key is for one request",
        webhooks.webhooks_service_update, made[0], update_body(name="twice"), idempotency_key=key,
    )
    check(int(header(first, "RateLimit-Remaining")) > 0, "answers say how much is left")


def main():
    webhooks, made = api(), []
    try:
        life(webhooks, made)
        lists(webhooks, made)
        refusals(webhooks, made)
        keys(webhooks, made)
    finally:
        for webhook in made:
            check(webhooks.webhooks_service_delete(webhook) is not None, "it is deleted")
    raises(NotFoundException, "and gone", webhooks.webhooks_service_get, made[0])
    print("the vendor's client", linkbreakers.__version__, "is content")
    return 0


if __name__ == "__main__":
    sys.exit(main())
