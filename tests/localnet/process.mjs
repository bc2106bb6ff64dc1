// What both servers share: how they are told what to do, say that they are ready, and end.

// Whatever a dependency prints must not be taken for the ready line.
console.log = console.error
console.info = console.error

/** The settings, one JSON object, from the command line. */
export const settings = JSON.parse(process.argv[2])

/** Keep an Express app off every address but loopback; its server's own `start` names a port only. */
export function listenOnLoopback(app) {
  const listen = app.listen.bind(app)
  app.listen = (port) => listen(port, '127.0.0.1')
}

/**
 * Print the ready line, then call `stop` and exit on SIGTERM or when stdin closes: a parent that
 * was killed can send no signal, but its end of the pipe closes with it.
 */
export function serveUntilEnd(port, stop) {
  let ending = false
  const end = async () => {
    if (ending) return
    ending = true
    await stop()
    process.exit(0)
  }
  process.on('SIGTERM', end)
  process.stdin.on('end', end)
  process.stdin.on('error', end)
  process.stdin.resume()
  process.stdout.write(`${JSON.stringify({ port })}\n`)
}
