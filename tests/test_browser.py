"""The docs site as its reader sees it, in headless Chromium: a desktop, a phone, the dark. No page reaches the network: KaTeX and mermaid, which the
pages load from a CDN, are answered from their npm packages, and a request that nothing answers fails the test."""
import os
import re
import shutil
import subprocess
from mimetypes import guess_type
from pathlib import Path
from threading import Thread

import pytest

from visft_nb.course.docs import docs_server, page_paths

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync']
CDN = re.compile(r'https://cdn\.jsdelivr\.net/npm/([\w-]+)@([\d.]+)/(.+)')
BADGE = 'https://colab.research.google.com/assets/colab-badge.svg'
CONTRAST = 4.5   # WCAG 2.1, 1.4.3, level AA


@pytest.fixture(scope='module')
def browser():
    sync_api = pytest.importorskip('playwright.sync_api', reason='the browser is driven by playwright: pip install playwright')
    if not CHROMIUM: pytest.skip('there is no chromium on this machine: apt install chromium')
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope='module')
def address(browser, site):
    with docs_server(site) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_address[1]}'
        server.shutdown()


@pytest.fixture(scope='module')
def npm(browser, site):
    "A folder with the npm packages, in the versions that the pages ask for."
    wanted = sorted({f'{m[1]}@{m[2]}' for page in site.rglob('*.html') for m in CDN.finditer(page.read_text(encoding='utf-8'))})
    if not shutil.which('npm'): pytest.skip(f'there is no npm on this machine to get {wanted}: apt install npm')
    cache = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()/'visft_nb/npm'/'+'.join(wanted)
    if not (cache/'done').exists():
        cache.mkdir(parents=True, exist_ok=True)
        run = subprocess.run(['npm', 'install', '--prefix', str(cache), '--no-audit', '--no-fund', '--ignore-scripts', *wanted], capture_output=True, text=True)
        if run.returncode: pytest.skip(f'npm cannot get {wanted}: {run.stderr.strip().splitlines()[-1:]}')
        (cache/'done').touch()
    return cache/'node_modules'


class Visit:
    "A browser page that answers the CDN from npm packages and keeps what goes wrong."
    def __init__(self, browser, npm, address, **context):
        self.npm, self.address, self.wrong, self.asked = npm, address, [], []
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.route('**/*', self.answer)
        self.page.on('console', lambda m: self.wrong.append(m.text) if m.type in ('error', 'warning') else None)
        self.page.on('pageerror', lambda e: self.wrong.append(str(e)))
        self.page.on('response', lambda r: self.wrong.append(f'{r.status} {r.url}') if r.status >= 400 else None)

    def answer(self, route):
        url = route.request.url.partition('?')[0]
        if url.startswith((self.address, 'data:')): return route.continue_()
        self.asked.append(url)
        if url == BADGE: return route.fulfill(body='<svg xmlns="http://www.w3.org/2000/svg" width="117" height="20"/>', content_type='image/svg+xml')
        if (m := CDN.fullmatch(url)) and (file := self.npm/m[1]/m[3]).is_file():
            kind = 'text/javascript' if file.suffix in ('.js', '.mjs') else guess_type(file.name)[0] or 'application/octet-stream'
            return route.fulfill(path=file, content_type=kind, headers={'Access-Control-Allow-Origin': '*'})
        self.wrong.append(f'nothing answers {url}')
        route.abort()

    def open(self, path):
        self.wrong.clear()
        self.page.goto(f'{self.address}/{path}', wait_until='load')
        if self.page.locator('pre.mermaid').count():
            self.page.wait_for_function("[...document.querySelectorAll('pre.mermaid')].every(e => e.querySelector('svg[viewBox]'))", timeout=20000)
        return self.page


# Text that is too faint on its ground, a list of [ratio, text]. The ground is the colours of all ancestors, laid over each other.
FAINT = """limit => {
  const parse = s => { const v = s.match(/[\\d.]+/g).map(Number); if (s.startsWith('color(')) { v[0] *= 255; v[1] *= 255; v[2] *= 255; } return [v[0], v[1], v[2], v[3] ?? 1]; };
  const over = (a, b) => [0, 1, 2].map(i => a[i]*a[3] + b[i]*(1 - a[3]));
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v/12.92 : ((v + .055)/1.055)**2.4); return .2126*r + .7152*g + .0722*b; };
  const faint = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    if (!text || e.closest('svg, script, style, .katex-mathml, annotation') || !e.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    let chain = [], opacity = 1;
    for (let p = e; p; p = p.parentElement) { chain.unshift(p); opacity *= getComputedStyle(p).opacity; }
    let ground = [255, 255, 255];
    for (const p of chain) ground = over(parse(getComputedStyle(p).backgroundColor), ground);
    const ink = parse(getComputedStyle(e).color); ink[3] *= opacity;
    const [a, b] = [light(over(ink, ground)), light(ground)].sort((x, y) => y - x), ratio = (a + .05)/(b + .05);
    if (ratio < limit) faint.push([Math.round(ratio*100)/100, text.slice(0, 40), e.className || e.tagName]);
  }
  return faint;
}"""
WIDE = """() => [...document.querySelectorAll('body *')].filter(e => {
  if (e.closest('svg, #quarto-sidebar, .katex-mathml, .visually-hidden') || e.getBoundingClientRect().right <= window.innerWidth + 1) return false;
  for (let p = e.parentElement; p; p = p.parentElement)
    if (/auto|scroll/.test(getComputedStyle(p).overflowX) && p.getBoundingClientRect().right <= window.innerWidth + 1) return false;
  return true;
}).map(e => e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 30)).slice(0, 5)
  .concat(document.documentElement.scrollWidth > window.innerWidth ? ['the page'] : [])"""
RAW = """() => [...document.querySelectorAll('span.math')].filter(e => !e.querySelector('.katex') || e.querySelector('.katex-error')).map(e => e.textContent.slice(0, 60))"""
EMPTY = """() => [...document.querySelectorAll('main img')].filter(i => !(i.complete && i.naturalWidth && i.alt.trim())).map(i => i.src.slice(0, 60) + ' alt=' + i.alt)"""


@pytest.fixture(scope='module')
def phone(browser, npm, address):
    visit = Visit(browser, npm, address, viewport=dict(width=390, height=844), color_scheme='dark', device_scale_factor=1)
    yield visit
    visit.context.close()


@pytest.fixture
def desktop(browser, npm, address):
    visit = Visit(browser, npm, address, viewport=dict(width=1440, height=900), color_scheme='light')
    yield visit
    visit.context.close()


def paths():
    "Every lesson; of the library's rooms and of the API's pages, which one code makes from one kind of cells, every fourth and every eighth."
    pages = sorted(page_paths().values())
    rooms = [p for p in pages if p.startswith('lib/')]
    return [*(p for p in pages if p not in rooms), *rooms[::4], 'api']


@pytest.mark.parametrize('path', paths())
def test_page(phone, path, site):
    "On a phone, in the dark and in the light. `api` stands for the API pages."
    for one in [path] if path != 'api' else sorted(p.relative_to(site).as_posix() for p in (site/'api').glob('*.html'))[::8]:
        page = phone.open(one)
        page.emulate_media(color_scheme='dark')
        page.wait_for_function("document.documentElement.classList.contains('quarto-dark')")
        assert not phone.wrong, f'{one}: {phone.wrong}'
        assert not page.evaluate(RAW), f'{one}: formulas that KaTeX did not set: {page.evaluate(RAW)}'
        assert not page.evaluate(EMPTY), f'{one}: pictures not loaded or without alternative text: {page.evaluate(EMPTY)}'
        assert not page.evaluate(WIDE), f'{one} scrolls sideways: {page.evaluate(WIDE)}'
        assert not page.locator('pre.mermaid[data-processed] .error-icon').count(), f'{one}: a mermaid diagram has an error'
        assert page.locator('pre.mermaid svg').count() == page.locator('pre.mermaid').count()
        assert not page.evaluate(FAINT, CONTRAST), f'{one}, dark: {page.evaluate(FAINT, CONTRAST)}'
        page.emulate_media(color_scheme='light')
        page.wait_for_function("!document.documentElement.classList.contains('quarto-dark')")
        assert not page.evaluate(FAINT, CONTRAST), f'{one}, light: {page.evaluate(FAINT, CONTRAST)}'


def test_the_checks_can_fail(phone):
    page = phone.open('lib/core.html')
    page.evaluate("""() => document.querySelector('main').insertAdjacentHTML('beforeend', '<p style="color:#777;background:#888">faint</p>' +
      '<div style="width:900px">wide</div><img src="data:,"><span class="math">raw</span>')""")
    assert any(t == 'faint' for _, t, _ in page.evaluate(FAINT, CONTRAST))
    assert page.evaluate(WIDE) and page.evaluate(EMPTY) and page.evaluate(RAW) == ['raw']
    page.evaluate("fetch('https://example.org/font.woff').catch(() => 0)")
    page.wait_for_timeout(100)
    assert 'nothing answers https://example.org/font.woff' in phone.wrong


def test_home_on_a_desktop(desktop):
    page = desktop.open('index.html')
    assert not desktop.wrong
    assert page.locator('pre.mermaid svg').bounding_box()['height'] > 200 and 'Adversarial training' in page.locator('pre.mermaid svg').text_content()
    assert page.locator('#quarto-sidebar').is_visible()
    page.locator('main table').get_by_role('link', name='Core', exact=True).first.click()
    page.wait_for_url('**/lib/core.html')
    assert page.locator('h1').inner_text() == 'Core'


def test_formulas_are_set(desktop):
    page = desktop.open('lib/core.html')
    assert page.locator('.katex').count() > 0 and any('katex' in url for url in desktop.asked)


def test_search_finds_a_word_and_leads_there(desktop):
    page = desktop.open('course/docs.html')
    page.locator('.smalldocs-search input').first.fill('mantissa')
    hit = page.locator('.search-result', has_text='Core').first
    hit.wait_for()
    hit.click()
    page.wait_for_url('**/lib/core.html*')
    assert 'mantissa' in page.locator('main').inner_text()


def test_sidebar_opens_on_a_phone(phone):
    page = phone.open('lib/core.html')
    link = page.locator('#quarto-sidebar').get_by_role('link', name='The book', exact=True)
    assert not -1 < link.bounding_box()['x'] < 390
    page.locator('.quarto-secondary-nav .quarto-btn-toggle').click()
    page.wait_for_function("document.querySelector('#quarto-sidebar').getBoundingClientRect().x >= 0")
    link.click()
    page.wait_for_url('**/course/book.html')


def test_dark_mode_by_hand_is_kept(desktop):
    page = desktop.open('index.html')
    page.evaluate('smalldocsToggleScheme()')
    page.wait_for_function("document.documentElement.classList.contains('quarto-dark')")
    desktop.open('lib/core.html')
    page.wait_for_function("document.documentElement.classList.contains('quarto-dark')")


# ---------------------------------------------------------------- the app of `visft app`

@pytest.fixture(scope='module')
def asked_app(browser, tmp_path_factory):
    "The app about a classifier, started as `visft app` starts it, and files to upload; every request that leaves the machine is refused and noted."
    pytest.importorskip('gradio', reason="the app is built with gradio: pip install 'visft_nb[app]'")
    import numpy as np
    import socket
    import torch
    from PIL import Image
    from visft_nb.deploy import export_onnx
    from visft_nb.finetune.work import launch_app, write_dicom
    top = tmp_path_factory.mktemp('app')
    net = torch.nn.Sequential(torch.nn.AvgPool2d(10), torch.nn.Flatten(), torch.nn.Linear(4, 4, bias=False))
    with torch.no_grad(): net[2].weight.copy_(12*torch.eye(4))   # it says which corner is bright
    export_onnx(net, top/'corners.onnx', torch.rand(2, 1, 20, 20), ['top left', 'top right', 'bottom left', 'bottom right'], dynamo=False)
    a = np.zeros((20, 20), np.uint8); a[10:, :10] = 255
    Image.fromarray(a).save(top/'bright.png')
    Image.fromarray(np.full((20, 20), 90, np.uint8)).save(top/'even.png')
    write_dicom(top/'scan.dcm', a.astype(np.uint16)*16)
    (top/'letter.png').write_text('Dear doctor,')
    (top/'large.png').write_bytes(bytes(3*2**20))
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    app = launch_app(top/'corners.onnx', port, largest=1, wait=False, log=lambda line: None)
    page, left = browser.new_page(viewport=dict(width=1200, height=900)), []
    def answer(route):
        if route.request.url.startswith((f'http://127.0.0.1:{port}', 'data:', 'blob:')): return route.continue_()
        left.append(route.request.url); route.abort()
    page.route('**/*', answer)
    page.goto(f'http://127.0.0.1:{port}', wait_until='load')
    page.locator('input[type=file]').wait_for(state='attached', timeout=60000)
    yield page, top, left, app
    page.close(); app.close(verbose=False); app.uploads.cleanup()


def upload(page, file, words):
    "Choose a file, wait until the answer holds these words, and give all that is said."
    if (x := page.locator('[aria-label="Clear"], [aria-label="Remove this file"], button[title=Clear]')).count():
        x.first.click()
        page.wait_for_function("!document.querySelector('#answer').innerText.trim()", timeout=20000)
    page.locator('input[type=file]').wait_for(state='attached', timeout=20000)
    page.locator('input[type=file]').set_input_files(file)
    page.locator('body').get_by_text(words).first.wait_for(timeout=20000)
    return page.locator('#answer').inner_text()


SHOWN = "() => { const i = document.querySelector('#overlay img'); return !!i && i.complete && i.naturalWidth > 100; }"


def test_deploy_app_answers_in_a_browser(asked_app):
    page, top, left, _ = asked_app
    said = upload(page, top/'bright.png', 'uncertainty')
    assert said.startswith('bottom left, probability') and 'second reader' not in said
    page.wait_for_function(SHOWN, timeout=20000)
    assert 'occlusion' in page.locator('#overlay').inner_text() and 'bottom left' in page.locator('body').inner_text()
    said = upload(page, top/'even.png', 'second reader')
    assert 'uncertainty 1.00' in said
    assert upload(page, top/'scan.dcm', 'uncertainty').startswith('bottom left')
    assert left == [], 'the app asks nothing of anybody else'


def test_deploy_app_refuses_in_a_browser(asked_app):
    page, top, left, _ = asked_app
    said = upload(page, top/'letter.png', 'No answer')
    assert 'letter.png cannot be decoded' in said and 'Traceback' not in page.locator('body').inner_text()
    assert not page.evaluate(SHOWN), 'no overlay of the file before'
    upload(page, top/'large.png', 'maximum allowed size')
    page.reload(wait_until='load')
    assert upload(page, top/'bright.png', 'uncertainty').startswith('bottom left'), 'it goes on'
    assert left == []


def test_deploy_app_stays_at_home_and_keeps_no_upload(asked_app):
    page, top, _, app = asked_app
    upload(page, top/'scan.dcm', 'uncertainty')
    kept = Path(app.uploads.name)
    assert [p.name for p in kept.rglob('*.dcm')] and not app.share and app.local_url.startswith('http://127.0.0.1:') and os.environ['GRADIO_ANALYTICS_ENABLED'] == 'False'
    app.close(verbose=False); app.uploads.cleanup()
    assert not kept.exists()
