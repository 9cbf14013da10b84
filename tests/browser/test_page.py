"""The server's page in a real browser: a streamed answer with its output, a conversation, the key, hostile text."""

from pathlib import Path

from tests.browser.chromium import Chromium
from tests.unit.serve.scripted_world import ANSWER, CALL, scripted, served

HOSTILE = "<img src=x onerror=\"document.title='broken in'\"><script>document.title='broken in'</script>"


def test_a_conversation(browser: Chromium, tmp_path: Path) -> None:
    with scripted([CALL + HOSTILE + ANSWER]) as resident, served(resident, key="k3y") as address:
        browser.visit(address)
        browser.complaints()
        browser.type("#question", "What is 6 times 7?")
        browser.click("#send")
        browser.wait("document.querySelector('.failed') && !document.getElementById('key-label').hidden")
        assert "API key" in browser.texts(".failed")[0]
        browser.type("#key", "k3y")
        browser.click("#clear")
        browser.type("#question", "What is 6 times 7?")
        browser.click("#send")
        browser.wait("document.querySelector('.answer b')")
        assert browser.texts("#model") == ["m"]
        assert browser.texts("article pre") == ["42"] and browser.texts(".answer b") == ["42"]
        shown = "".join(browser.texts(".words"))
        assert "print(6 * 7)" in shown and HOSTILE in shown and "<interpreter>" not in shown
        browser.wait("!document.getElementById('send').disabled")
        browser.type("#question", "And again?")
        browser.click("#send")
        browser.wait("document.querySelectorAll('.answer b').length === 2")
        assert browser.run("return document.title") == "tirflow"
        assert browser.run("return messages.length") == 4
        refused = [line for line in browser.complaints() if "401" not in line]
        assert refused == [], "the content security policy refuses something"
