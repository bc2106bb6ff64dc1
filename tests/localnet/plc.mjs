// A PLC directory in memory, on a free port. Settings: none.
import plcServer from '@did-plc/server'

import { listenOnLoopback, serveUntilEnd } from './process.mjs'

const { MockDatabase, PlcServer } = plcServer

const plc = PlcServer.create({ db: new MockDatabase(), port: 0 })
listenOnLoopback(plc.app)
const server = await plc.start()
serveUntilEnd(server.address().port, () => plc.destroy())
